"""A plan with its records, and what follows from them, each computed once."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from mtlora.analysis.aggregate import cost_frame, row_keys, summary
from mtlora.analysis.bootstrap import paired_bootstrap
from mtlora.analysis.comparison import Comparison, Row, compare, headlines
from mtlora.analysis.evidence import Evidence, problems, usable
from mtlora.experiment import Plan
from mtlora.record import RunRecord


@dataclass(frozen=True)
class View:
    """A plan, its usable records, and what follows from them, each computed once."""

    plan: Plan
    evidence: Evidence

    @cached_property
    def records(self) -> dict[str, RunRecord]:
        """Return the usable records by config_sha."""
        return usable(self.plan, self.evidence)

    @cached_property
    def problems(self) -> list[str]:
        """Return what is missing or left out, a line each."""
        return problems(self.plan, self.evidence) + self.bootstrap[1]

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Return the long table."""
        return summary(self.plan, self.records)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Return all paired comparisons."""
        return compare(self.plan, self.records)

    @cached_property
    def cost(self) -> pd.DataFrame:
        """Return parameters and cost per row and task."""
        return cost_frame(self.plan, self.records)

    @cached_property
    def bootstrap(self) -> tuple[pd.DataFrame, list[str]]:
        """Return the paired bootstrap of the headline comparisons, and what could not be compared."""
        return paired_bootstrap(self.plan, headlines(self.plan, self.comparisons), self.evidence)

    @cached_property
    def rows(self) -> list[Row]:
        """Return the rows in their order: by model, targets, rank, variant; methods as in the experiment."""
        rows = list(dict.fromkeys(tuple(row_keys(self.plan, cell).values()) for cell in self.plan.cells))
        return sorted(rows, key=lambda row: (row[0], row[3], row[2], row[4]))
