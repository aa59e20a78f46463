"""The data behind the tables and figures of one plan."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from mtlora.plan.grid import Plan
from mtlora.plan.tuning import Tuning
from mtlora.records.record import RunRecord
from mtlora.tables.aggregate import Row, cost_frame, row_of, summary
from mtlora.tables.compare import compare
from mtlora.tables.comparison import Comparison, headlines
from mtlora.tables.evidence import Evidence, Found, find, majority_answers
from mtlora.tables.geometry import read_geometry
from mtlora.tables.items import ItemResult, compare_items
from mtlora.tables.tuning import read_tuning


@dataclass(frozen=True, eq=False)
class View:
    """A plan with its records, and everything that is computed from them, each once."""

    plan: Plan
    evidence: Evidence

    @cached_property
    def found(self) -> Found:
        """Return the records of the plan's cells."""
        return find(self.plan, self.evidence)

    @property
    def records(self) -> dict[str, RunRecord]:
        """The usable records by config_sha."""
        return self.found.records

    @property
    def diverged(self) -> dict[str, RunRecord]:
        """The records of runs that diverged, by config_sha."""
        return self.found.diverged

    @cached_property
    def scored(self) -> dict[str, RunRecord]:
        """Return the records that enter means and differences: `records`, and diverged runs that count as the majority answer."""
        counts = self.plan.experiment.failures == "majority"
        return self.records | (majority_answers(self.diverged) if counts else {})

    @cached_property
    def tuning(self) -> Tuning | None:
        """Return the learning rates that were tried and chosen for this experiment, if there is a readable file of them."""
        return read_tuning(self.plan)

    @cached_property
    def problems(self) -> list[str]:
        """Return a line for each run that is missing or left out, and for each file that cannot be read."""
        return self.found.problems + self.items[1] + self.geometry[1]

    @property
    def has_results(self) -> bool:
        """Whether any run has ended with an outcome that a table shows."""
        return bool(self.records or self.diverged)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Return the long table."""
        return summary(self.plan, self.scored)

    def headline(self, selection: str) -> dict[Row, dict[Any, Any]]:
        """Return the entry of the long table for the headline score by row, at an epoch (`last` or `best`)."""
        h = self.plan.experiment.headline
        wanted = (h.task, h.split, h.metric, selection)
        items = self.summary.to_dict("records")
        return {Row.of(i): i for i in items if (i["task"], i["split"], i["metric"], i["selection"]) == wanted}

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Return all paired comparisons."""
        blocking = {sha: record for sha, record in self.diverged.items() if sha not in self.scored}
        return compare(self.plan, self.scored, blocking)

    @cached_property
    def cost(self) -> pd.DataFrame:
        """Return parameters, cost and the number of runs that diverged, per row and task."""
        return cost_frame(self.plan, self.records, self.diverged)

    @cached_property
    def items(self) -> tuple[list[ItemResult], list[str]]:
        """Return the headline comparisons over test items, and a line for each that could not be made."""
        return compare_items(self.plan, headlines(self.comparisons), self.evidence)

    @cached_property
    def geometry(self) -> tuple[pd.DataFrame, list[str]]:
        """Return the summaries of T that the runs kept, and a line for each file that could not be read."""
        return read_geometry(self.plan, self.records, self.evidence)

    @cached_property
    def rows(self) -> list[Row]:
        """Return the rows, ordered by model, targets and rank, then by variant and by method as in the experiment."""
        rows = list(dict.fromkeys(row_of(self.plan, cell) for cell in self.plan.cells))
        order = {variant: k for k, variant in enumerate(dict.fromkeys(row.variant for row in rows))}
        return sorted(rows, key=lambda row: (row.model, row.targets, row.rank, order[row.variant]))
