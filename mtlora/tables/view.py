"""The data behind the tables and figures of one plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from mtlora.plan.grid import Plan
from mtlora.plan.tuning import Tuning
from mtlora.records.record import RunRecord
from mtlora.tables.aggregate import Row, cost_frame, row_of, summary
from mtlora.tables.compare import compare
from mtlora.tables.comparison import Comparison, headlines
from mtlora.tables.evidence import Evidence, diverged, majority_answers, problems, touched, usable
from mtlora.tables.geometry import read_geometry
from mtlora.tables.items import ItemResult, compare_items
from mtlora.tables.tuning import read_tuning


@dataclass(frozen=True, eq=False)
class View:
    """A plan with its records, and everything that is computed from them, each once."""

    plan: Plan
    evidence: Evidence

    @cached_property
    def records(self) -> dict[str, RunRecord]:
        """Return the usable records by config_sha."""
        return usable(self.plan, self.evidence)

    @cached_property
    def diverged(self) -> dict[str, RunRecord]:
        """Return the records of runs that diverged, by config_sha."""
        return diverged(self.plan, self.evidence)

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
        return problems(self.plan, self.evidence) + self.items[1] + self.geometry[1]

    @property
    def has_results(self) -> bool:
        """Whether any run has ended with an outcome that a table shows."""
        return bool(self.records or self.diverged)

    @cached_property
    def touched(self) -> set[str]:
        """Return the config_shas of the runs that were started or left out; without any, the experiment has not been run."""
        return touched(self.plan, self.evidence)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Return the long table."""
        return summary(self.plan, self.scored)

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
        """Return the rows, ordered by model, targets, rank and variant, then by method as in the experiment."""
        rows = list(dict.fromkeys(row_of(self.plan, cell) for cell in self.plan.cells))
        return sorted(rows, key=lambda row: (row.model, row.targets, row.rank, row.variant))


def split_by_runs(views: Sequence[View]) -> tuple[list[View], list[View]]:
    """Return the views whose experiment has been run, and the others.

    An ablation has not been run if another experiment has all of its runs, such as the rank that both have in common.
    """
    shown = []
    for number, view in enumerate(views):
        others = [(i, other) for i, other in enumerate(views) if i != number]
        shared = view.plan.experiment.ablation and any(
            view.touched < other.touched or (view.touched == other.touched and i < number) for i, other in others
        )
        if view.touched and not shared:
            shown.append(view)
    return shown, [view for view in views if view not in shown]
