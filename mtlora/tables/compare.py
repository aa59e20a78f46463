"""The comparisons between the rows of a plan's table, the pairs of runs behind them, and the estimates from these."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mtlora.config.metrics import METRICS
from mtlora.plan.cell import Cell
from mtlora.plan.experiment import Column
from mtlora.plan.grid import Plan, fits, is_excluded
from mtlora.records.record import RunRecord
from mtlora.tables.aggregate import (
    Row,
    above_majority,
    average_column,
    column_values,
    long_frame,
    row_of,
    scale_of,
)
from mtlora.tables.comparison import CONTROL, Comparison, Headline, Pair, by_task
from mtlora.tables.statistics import Difference, mixture, paired_difference

Values = dict[tuple[Row, str, int], dict[int, tuple[float, str]]]  # row, selection, column -> seed -> value, run_id


class Rival(NamedTuple):
    """A row and the row that it is compared with."""

    row: Row
    base: Row
    contrast: str


def compare(
    plan: Plan, records: Mapping[str, RunRecord], diverged: Mapping[str, RunRecord] | None = None
) -> list[Comparison]:
    """Compare every row of a plan with LoRA in the same setting, with its controls, and along the experiment's contrasts.

    Where the experiment excludes LoRA in a setting (a start of T: LoRA has none), it is LoRA at the first value of that key.

    Args:
        plan: the experiment's cells.
        records: their usable records, by config_sha.
        diverged: the records of runs without a score, by config_sha; they block a verdict.
    """
    comparer = _Comparer(plan, records, diverged or {})
    return [
        comparer.compare(rival, number, size)
        for rivals, size in _families(plan)
        for number in [*range(len(plan.columns)), *([None] if plan.experiment.average else [])]
        for rival in rivals
    ]


def _families(plan: Plan) -> Iterator[tuple[list[Rival], int]]:
    """Yield the families, the comparisons of one question, and for each the number that the level of its intervals accounts for.

    The number includes all methods that the experiment declares for a setting: leaving some out on the command line must
    not make the others significant.
    """
    found: dict[tuple[str, Row], list[Rival]] = {}
    for rival in (*_rivals_of_methods(plan), *_rivals_along_contrasts(plan)):
        found.setdefault((rival.contrast, rival.row.setting), []).append(rival)
    cells = {row_of(plan, cell): cell for cell in plan.cells}
    for (contrast, _), rivals in found.items():
        methods = _declared_methods(plan, cells[rivals[0].row])
        methods |= {row.method for rival in rivals for row in (rival.row, rival.base)}
        pairs = sum(m in methods and c in methods for m, controls in plan.experiment.controls.items() for c in controls)
        sizes = {"": len(methods - {"lora"}), CONTROL: pairs}
        yield rivals, sizes.get(contrast, len(methods))


def _rivals_of_methods(plan: Plan) -> Iterator[Rival]:
    """Yield each row with LoRA's in the same setting, then with those of its controls."""
    products = {row_of(plan, cell): _settings(cell) for cell in plan.cells}
    by_product = {frozenset(product.items()): row for row, product in products.items()}
    for row, product in products.items():
        base = by_product.get(frozenset(_instead_of_excluded(plan, product | {"transform": "lora"}).items()))
        if base not in (None, row):
            yield Rival(row, base, "")
    for row in products:
        for method in plan.experiment.controls.get(row.method, []):
            if (base := row._replace(method=method)) in products and base != row:
                yield Rival(row, base, CONTROL)


def _settings(cell: Cell) -> dict[str, str]:
    """Return the values that a cell shares with its row."""
    return {key: value for key, value in cell.product.items() if key not in ("seed", "task")}


def _instead_of_excluded(plan: Plan, product: dict[str, str]) -> dict[str, str]:
    """Return a setting of LoRA; where the experiment excludes it, because a key has no meaning there, the key's first value."""
    axes = {**plan.axes, **plan.experiment.axes_of(plan.profile)}
    for excluded in plan.experiment.exclude:
        if fits(product, excluded):
            product |= {key: str(axes[key][0]) for key in excluded if key != "transform"}
    return product


def _rivals_along_contrasts(plan: Plan) -> Iterator[Rival]:
    """Yield each row with the row that differs from it in the contrast's key only, which has its first value there."""
    for key in plan.experiment.contrasts:
        by_value: dict[str, dict[frozenset[tuple[str, str]], Row]] = {}
        for cell in plan.cells:
            settings = _settings(cell)
            value = settings.pop(key, "")
            by_value.setdefault(value, {})[frozenset(settings.items())] = row_of(plan, cell)
        first, *values = plan.axes.get(key, [""])
        bases = by_value.get(first, {})
        for value in values:
            for others, row in by_value.get(value, {}).items():
                if bases.get(others, row) != row:
                    yield Rival(row, bases[others], key)


def _declared_methods(plan: Plan, cell: Cell) -> set[str]:
    """Return all methods that the experiment has at a cell's other values, whatever the command line leaves out."""
    methods = {str(method) for method in plan.experiment.axes_of(plan.profile).get("transform", [])}
    return {m for m in methods if not is_excluded(cell.product | {"transform": m}, plan.experiment)}


class _Comparer:
    """The values of a plan's runs, by row, selection, column and seed."""

    def __init__(self, plan: Plan, records: Mapping[str, RunRecord], diverged: Mapping[str, RunRecord]) -> None:
        self.plan, self.columns = plan, plan.columns
        self.values = _by_seed(plan, plan.cells, records)
        self.confirmed = _by_seed(plan, plan.confirm, records)  # at the second best learning rate
        self.above = above_majority(plan, records)
        self.floors = [_item_size(plan, column, records) for column in self.columns]
        self.ended: dict[tuple[Row, str], list[tuple[str, bool]]] = {}  # run_id, and whether it diverged
        self.roots: dict[tuple[Row, str], str] = {}
        self.weights: dict[tuple[Row, str], float] = {}  # of the best learning rate, where the choice is unsure
        for cell in plan.every:
            key = (row_of(plan, cell), cell.config.task.name)
            self.roots[key] = _root(cell)
            if (record := records.get(cell.sha) or diverged.get(cell.sha)) is not None:
                self.ended.setdefault(key, []).append((record.run_id, cell.sha in diverged))
        for cell in plan.confirm:
            self.weights[row_of(plan, cell), cell.config.task.name] = cell.choice.weight

    def compare(self, rival: Rival, number: int | None, family: int) -> Comparison:
        """Compare two rows in a column, or in the average (number None)."""
        column = self.columns[number] if number is not None else average_column(self.plan)
        members = list(range(len(self.columns))) if number is None else [number]
        tasks = [self.columns[m].task for m in members]
        experiment = self.plan.experiment
        h, selection, rule = experiment.headline, experiment.selection, experiment.convention
        head = None
        if (column.task, column.split, column.metric) == (h.task, h.split, h.metric):
            learned = [all(self.above.get(task, {}).get(row, True) for row in rival[:2]) for task in tasks]
            ours, theirs = ([run for t in tasks for run in self.ended.get((row, t), [])] for row in rival[:2])
            head = Headline(
                margin=h.margin,
                as_published=self.estimate(rival, members, rule.selection if rule else selection),
                informative=self.estimate(rival, list(itertools.compress(members, learned)), selection),
                dull=tuple(task for task, is_learned in zip(tasks, learned, strict=True) if not is_learned),
                failed=(tuple(run for run, bad in ours if bad), tuple(run for run, bad in theirs if bad)),
                finished=(len(ours), len(theirs)),
                rates=len(self.combinations(rival, members)),
                unconfirmed=any(self.is_unconfirmed(row, m) for row in rival[:2] for m in members),
            )
        return Comparison(
            *(rival.row, rival.base, rival.contrast, column.task, column.split, column.metric, column.label),
            digits=column.digits,
            pairs=tuple(self.pairs(rival, members, selection)),
            difference=self.estimate(rival, members, selection),
            family=family,
            head=head,
            floors={self.columns[m].task: self.floors[m] for m in members},
            groups=tuple(self.roots.get((rival.row, task), task) for task in tasks),
        )

    def is_unconfirmed(self, row: Row, m: int) -> bool:
        """Tell whether a row's learning rate is an unsure choice, and runs at the second best rate are missing."""
        selection = self.plan.experiment.selection
        best, second = (len(values.get((row, selection, m), {})) for values in (self.values, self.confirmed))
        return (row, self.columns[m].task) in self.weights and second < best

    def estimate(self, rival: Rival, members: Sequence[int], selection: str) -> Difference | None:
        """Estimate the mean over tasks, over both learning rates of a row whose choice is unsure; None if a task has no pair.

        With a choice for each task the rates of all tasks change together, which makes the interval too wide rather than too
        narrow.
        """
        weights, found = [], []
        for weight, second in self.combinations(rival, members):
            tasks = by_task(self.pairs(rival, members, selection, second))
            if not members or len(tasks) < len(members):
                return None
            groups = [self.roots[rival.row, task] for task in tasks]
            weights.append(weight)
            found.append(paired_difference(list(tasks.values()), groups, [self.floors[m] for m in members]))
        return found[0] if len(found) == 1 else mixture(weights, found)

    def combinations(self, rival: Rival, members: Sequence[int]) -> list[tuple[float, tuple[bool, bool]]]:
        """Return the weight of each combination of learning rates, and whether they are the row's and the base's second best."""
        options = []
        for row in rival[:2]:
            unsure = [
                weight
                for m in members
                if (weight := self.weights.get((row, self.columns[m].task))) and not self.is_unconfirmed(row, m)
            ]
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
                (use_second and self.confirmed.get((row, selection, m))) or self.values.get((row, selection, m), {})
                for row, use_second in zip(rival[:2], second, strict=True)
            )
            for seed in sorted(set(ours) & set(theirs)):
                (value, run), (other, its_run) = ours[seed], theirs[seed]
                found.append(Pair(self.columns[m].task, seed, (value, other), (run, its_run)))
        return found


def _by_seed(plan: Plan, cells: Sequence[Cell], records: Mapping[str, RunRecord]) -> Values:
    found: Values = {}
    for item in column_values(plan, long_frame(plan, records, cells)).to_dict("records"):
        key = (Row.of(item), item["selection"], item["column"])
        found.setdefault(key, {})[item["seed"]] = (item["value"], item["run_id"])
    return found


def _root(cell: Cell) -> str:
    return cell.config.task.name if cell.parent is None else _root(cell.parent)


def _item_size(plan: Plan, column: Column, records: Mapping[str, RunRecord]) -> float:
    """Return what one test item is worth in a column, on the table's scale; 0 if that is not known, or the score has no bound."""
    for cell in plan.cells:
        if cell.config.task.name == column.task and cell.sha in records:
            rows = records[cell.sha].provenance.get("rows", {})
            count = rows.get(column.split) or rows.get(column.split.partition("_")[0])
            highest = METRICS[column.metric].highest
            return scale_of(column) * highest / count if count and math.isfinite(highest) else 0.0
    return 0.0
