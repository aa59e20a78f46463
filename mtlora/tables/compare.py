"""The pairs of runs behind each comparison of a plan, and the estimates from them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mtlora.config.metrics import METRICS
from mtlora.plan.cell import Cell
from mtlora.plan.grid import Plan
from mtlora.plan.tuning import choice_of
from mtlora.records.record import RunRecord
from mtlora.tables.aggregate import Row, above_majority, average_column, column_values, long_frame, row_of
from mtlora.tables.comparison import Comparison, Pair, by_task
from mtlora.tables.families import Rival, families
from mtlora.tables.statistics import Difference, mixture, paired_difference


def compare(
    plan: Plan, records: Mapping[str, RunRecord], diverged: Mapping[str, RunRecord] | None = None
) -> list[Comparison]:
    """Compare every row of a plan with LoRA in the same setting, with its control, and along the experiment's contrasts.

    Args:
        plan: the experiment's cells.
        records: their usable records, by config_sha.
        diverged: the records of runs without a score, by config_sha; they block a verdict.
    """
    return _Comparer(plan, records, diverged or {}).comparisons()


class _Comparer:
    def __init__(self, plan: Plan, records: Mapping[str, RunRecord], diverged: Mapping[str, RunRecord]) -> None:
        self.plan = plan
        self.table = _by_seed(plan, plan.cells, records)
        self.confirmed = _by_seed(plan, plan.confirm, records)  # at the second best learning rate
        # The weight of the best learning rate by row and column, where the second best was run, too.
        tasks = {column.task: number for number, column in enumerate(plan.columns)}
        self.weights = {
            (row_of(plan, cell), number): choice_of(cell.config, cell.basis).weight
            for cell in plan.confirm
            if (row_of(plan, cell), "last", number := tasks[cell.config.task.name]) in self.confirmed
        }
        self.above = above_majority(plan, records)
        self.items = _item_sizes(plan, records)
        self.failed: dict[tuple[Row, str], dict[int, str]] = {}
        self.roots: dict[tuple[Row, str], str] = {}
        for cell in plan.cells:
            key_of_row = (row_of(plan, cell), cell.config.task.name)
            self.roots[key_of_row] = _root(cell)
            if cell.sha in diverged:
                self.failed.setdefault(key_of_row, {})[cell.config.seed] = diverged[cell.sha].run_id

    def comparisons(self) -> list[Comparison]:
        columns = self.plan.columns
        return [
            self.compare(rival, number, size)
            for rivals, size in families(self.plan)
            for number in [*range(len(columns)), *([None] if self.plan.experiment.average else [])]
            for rival in rivals
        ]

    def compare(self, rival: Rival, number: int | None, family: int) -> Comparison:
        """Compare two rows in a column, or in the average (number None)."""
        columns = self.plan.columns
        column = columns[number] if number is not None else average_column(self.plan)
        members = list(range(len(columns))) if number is None else [number]
        tasks = [columns[m].task for m in members]
        headline, rule = self.plan.experiment.headline, self.plan.experiment.convention
        selection = self.plan.experiment.selection
        pairs = self.pairs(rival, members, selection)
        found = Comparison(
            *(rival.row, rival.base, rival.contrast, column.task, column.split, column.metric, column.label),
            digits=column.digits,
            pairs=tuple(pairs),
            difference=self.weighted(rival, members, selection),
            family=family,
        )
        if (column.task, column.split, column.metric) != (headline.task, headline.split, headline.metric):
            return found
        dull = tuple(
            t for t in tasks if not (self.above.get((rival.row, t), True) and self.above.get((rival.base, t), True))
        )
        useful = [m for m in members if columns[m].task not in dull]
        return replace(
            found,
            margin=headline.margin,
            as_published=self.weighted(rival, members, rule.selection) if rule else None,
            informative=self.weighted(rival, useful, selection),
            dull=dull,
            rates=len(self.combinations(rival, members)),
            failed=tuple(  # type: ignore[arg-type]
                tuple(run for task in tasks for run in self.failed.get((row, task), {}).values())
                for row in (rival.row, rival.base)
            ),
        )

    def weighted(self, rival: Rival, members: Sequence[int], selection: str) -> Difference | None:
        """Estimate the mean over tasks, over both learning rates of a row whose choice is unsure, if both were run.

        With a choice for each task the rates of all tasks change together, which makes the interval too wide rather than too
        narrow.
        """
        weights, found = [], []
        for weight, second in self.combinations(rival, members):
            estimate = self.estimate(rival.row, self.pairs(rival, members, selection, second), members)
            if estimate is None:
                return None
            weights.append(weight)
            found.append(estimate)
        return found[0] if len(found) == 1 else mixture(weights, found)

    def combinations(self, rival: Rival, members: Sequence[int]) -> list[tuple[float, tuple[bool, bool]]]:
        """Return the weight of each combination of learning rates, and whether they are the row's and the base's second best."""
        options = []
        for row in (rival.row, rival.base):
            unsure = [self.weights[row, m] for m in members if (row, m) in self.weights]
            weight = sum(unsure) / len(unsure) if unsure else 1.0
            options.append([(weight, False), (1 - weight, True)] if unsure else [(1.0, False)])
        return [(w * v, (second, its)) for (w, second), (v, its) in itertools.product(*options)]

    def pairs(
        self, rival: Rival, members: Sequence[int], selection: str, second: tuple[bool, bool] = (False, False)
    ) -> list[Pair]:
        """Return the pairs of each task, at the seeds that both rows have there; `second`: at the second best learning rate."""
        found = []
        for m in members:
            ours, theirs = (
                (self.confirmed if use_second and (row, m) in self.weights else self.table).get((row, selection, m), {})
                for row, use_second in zip((rival.row, rival.base), second, strict=True)
            )
            for seed in sorted(set(ours) & set(theirs)):
                (value, run), (other, its_run) = ours[seed], theirs[seed]
                found.append(Pair(self.plan.columns[m].task, seed, (value, other), (run, its_run)))
        return found

    def estimate(self, row: Row, pairs: Sequence[Pair], members: Sequence[int]) -> Difference | None:
        """Estimate the mean over tasks; None if a task has no pair."""
        tasks = by_task(pairs)
        if not members or len(tasks) < len(members):
            return None
        floors = [self.items.get(self.plan.columns[m].task, 0.0) for m in members]
        return paired_difference(list(tasks.values()), [self.roots[row, task] for task in tasks], floors)


def _by_seed(
    plan: Plan, cells: list[Cell], records: Mapping[str, RunRecord]
) -> dict[tuple[Row, str, int], dict[int, tuple[float, str]]]:
    """Return value and run by row, selection and column number, then by seed."""
    found: dict[tuple[Row, str, int], dict[int, tuple[float, str]]] = {}
    for item in column_values(plan, long_frame(replace(plan, cells=cells), records)).to_dict("records"):
        key = (Row.of(item), item["selection"], item["column"])
        found.setdefault(key, {})[item["seed"]] = (item["value"], item["run_id"])
    return found


def _root(cell: Cell) -> str:
    return cell.config.task.name if cell.parent is None else _root(cell.parent)


def _item_sizes(plan: Plan, records: Mapping[str, RunRecord]) -> dict[str, float]:
    """Return what one test item is worth in each task's column, on the table's scale; nothing for a score without a bound."""
    sizes = {}
    for cell in plan.cells:
        column = next(c for c in plan.columns if c.task == cell.config.task.name)
        rows = records[cell.sha].provenance.get("rows", {}) if cell.sha in records else {}
        count = rows.get(column.split) or rows.get(column.split.partition("_")[0])
        info = METRICS[column.metric]
        if count and math.isfinite(info.highest):
            scale = column.scale or (100.0 if info.percent else 1.0)
            sizes[column.task] = scale * info.highest / count
    return sizes
