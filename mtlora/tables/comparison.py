"""MTLoRA against LoRA in a plan's runs: paired differences by task and suite, Holm's correction, verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mtlora.config.metrics import METRICS
from mtlora.plan.cell import Cell
from mtlora.plan.grid import Plan
from mtlora.records.record import RunRecord
from mtlora.tables.aggregate import Row, average_column, column_values, long_frame, row_of
from mtlora.tables.families import CONTROL, Rival, families
from mtlora.tables.statistics import (
    ALPHA,
    Difference,
    Verdict,
    direction,
    holm,
    paired_difference,
    pairs_needed,
    seeds_to_decide,
)


@dataclass(frozen=True)
class Pair:
    """One task and seed, trained with both methods."""

    task: str
    seed: int
    difference: float  # method less base, on the table's scale
    runs: tuple[str, str]  # of the method, of the base


@dataclass(frozen=True)
class Comparison:
    """A row of a table against its base row in one column, or in the suite's average."""

    row: Row
    base: Row
    contrast: (
        str  # empty: the base is LoRA; `control`: the method's control; else the swept key in which the rows differ
    )
    task: str
    split: str
    metric: str
    label: str
    digits: int  # with which the difference is printed
    pairs: tuple[Pair, ...]
    difference: Difference | None  # None: no seed has all tasks with both methods
    seeds: int
    family: int  # number of comparisons that Holm's correction covers
    margin: float | None = None  # of equivalence; only the headline figure has one
    convention: tuple[Pair, ...] = ()  # headline figure only: the pairs at the epoch that the literature selects
    p_holm: float = 1.0
    equivalence_p_holm: float = 1.0  # for the margin

    @property
    def verdict(self) -> Verdict:
        """The verdict on the two methods, independent of the paper's claims."""
        if self.difference is None:
            return Verdict.NO_DATA
        if sign := direction(self.difference, self.p_holm):
            lower_is_better = self.metric in METRICS and not METRICS[self.metric].higher_is_better
            return Verdict.BETTER if (sign > 0) != lower_is_better else Verdict.WORSE
        if self.margin is not None and self.equivalence_p_holm <= ALPHA:
            return Verdict.EQUAL
        return Verdict.UNDECIDED

    @property
    def verdict_text(self) -> str:
        """The printed verdict, with the margin within which two methods count as equal."""
        text = str(self.verdict)
        return f"{text} larger than {self.margin:g}" if self.verdict is Verdict.EQUAL else text

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of the runs behind the comparison."""
        return tuple(dict.fromkeys(run for pair in self.pairs for run in pair.runs))


def compare(plan: Plan, records: dict[str, RunRecord]) -> list[Comparison]:
    """Compare every row of a plan with LoRA in the same setting, and along the experiment's contrasts.

    Args:
        plan: the experiment's cells.
        records: their usable records, by config_sha.
    """
    values = column_values(plan, long_frame(plan, records))
    table: dict[tuple[Row, str, int], dict[int, tuple[float, str]]] = {}
    for item in values.to_dict("records"):
        key = (Row.of(item), item["selection"], item["column"])
        table.setdefault(key, {})[item["seed"]] = (item["value"], item["run_id"])
    comparisons = []
    for rivals, size in families(plan):
        for task in [*range(len(plan.columns)), None]:
            if task is None and not plan.experiment.average:
                continue
            comparisons += _corrected([_compare(plan, table, rival, task, size) for rival in rivals], size)
    return comparisons


def _compare(
    plan: Plan,
    table: dict[tuple[Row, str, int], dict[int, tuple[float, str]]],
    rival: Rival,
    number: int | None,
    family: int,
) -> Comparison:
    columns = plan.columns
    column = columns[number] if number is not None else average_column(plan)
    members = list(range(len(columns))) if number is None else [number]

    def pairs_of(selection: str) -> list[Pair]:
        """Return the pairs of the seeds that every task has, so that the average is always over the same tasks."""
        ours, theirs = ([table.get((r, selection, m), {}) for m in members] for r in (rival.row, rival.base))
        seeds = set.intersection(*(set(values) for values in (*ours, *theirs)))
        return [
            Pair(columns[m].task, seed, mine[seed][0] - other[seed][0], (mine[seed][1], other[seed][1]))
            for m, mine, other in zip(members, ours, theirs, strict=True)
            for seed in sorted(seeds)
        ]

    pairs = pairs_of(plan.experiment.selection)
    headline, rule = plan.experiment.headline, plan.experiment.convention
    is_headline = (column.task, column.split, column.metric) == (headline.task, headline.split, headline.metric)
    return Comparison(
        *(rival.row, rival.base, rival.contrast, column.task, column.split, column.metric, column.label, column.digits),
        pairs=tuple(pairs),
        difference=_estimate(plan, rival.row, pairs),
        seeds=len({pair.seed for pair in pairs}),
        family=family,
        margin=headline.margin if is_headline else None,
        convention=tuple(pairs_of(rule.selection)) if is_headline and rule is not None else (),
    )


def _estimate(plan: Plan, row: Row, pairs: Sequence[Pair]) -> Difference | None:
    """Estimate the mean over tasks; tasks that start from one adapter depend on each other and form one group."""
    if not pairs:
        return None
    roots = {cell.config.task.name: _root(cell) for cell in plan.cells if row_of(plan, cell) == row}
    tasks = list(dict.fromkeys(pair.task for pair in pairs))
    groups = {root: [task for task in tasks if roots[task] == root] for root in dict.fromkeys(roots[t] for t in tasks)}
    values = [np.array(by_seed([p for p in pairs if p.task in members])) for members in groups.values()]
    return paired_difference(values, [len(members) / len(tasks) for members in groups.values()])


def _root(cell: Cell) -> str:
    return cell.config.task.name if cell.parent is None else _root(cell.parent)


def by_seed(pairs: Sequence[Pair]) -> list[float]:
    """Return the mean difference over tasks, seed by seed."""
    seeds = dict.fromkeys(pair.seed for pair in pairs)
    return [float(np.mean([pair.difference for pair in pairs if pair.seed == seed])) for seed in seeds]


def _corrected(comparisons: list[Comparison], family: int) -> list[Comparison]:
    """Fill in the p values after Holm's correction; comparisons without data still count in the family."""
    found = [c for c in comparisons if c.difference is not None]
    p = holm([c.difference.p for c in found if c.difference], family)
    same = holm([c.difference.equivalence_p(c.margin or 0.0) for c in found if c.difference], family)
    filled = iter(replace(c, p_holm=a, equivalence_p_holm=b) for c, a, b in zip(found, p, same, strict=True))
    return [c if c.difference is None else next(filled) for c in comparisons]


def headlines(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with LoRA in the headline figure."""
    return [c for c in comparisons if not c.contrast and c.margin is not None]


def needed(c: Comparison, size: float) -> str:
    """Return a text about the number of seeds that would decide whether a difference of `size` exists."""
    if c.difference is None:
        return ""
    groups = len(c.difference.sizes)
    least = -(-pairs_needed(c.family) // groups)
    if c.seeds < 2:
        return f"at least {max(2, least)} seeds are needed"
    seeds = seeds_to_decide(c.difference, size, c.family)
    if seeds is None:
        return "no feasible number of seeds would decide"
    if seeds <= c.seeds:  # enough for a true difference of 0 or `size`; it seems to be neither
        return f"the difference seems to lie between 0 and {size:g}, which only more than {c.seeds} seeds can show"
    return f"about {seeds} seeds would decide"


COLUMNS = [
    *(
        "table",
        "model",
        "method",
        "rank",
        "targets",
        "protocol",
        "variant",
        "against",
        "task",
        "split",
        "metric",
        "selection",
    ),
    *("pairs", "seeds", "difference", "low", "high", "dof"),
    *("p", "attainable_p", "p_holm", "family", "verdict", "run_ids"),
]


def comparison_frame(plan: Plan, comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return a row per comparison: the difference, its 95% interval, sign-flip p, Holm's p, verdict and runs."""
    rows = []
    for c in comparisons:
        if c.difference is None:
            continue
        low, high = c.difference.interval() or (None, None)
        rows.append(
            c.row._asdict()
            | {"table": plan.name, "against": against(c), "task": c.task, "split": c.split, "metric": c.metric}
            | {"selection": plan.experiment.selection, "pairs": c.difference.pairs, "seeds": c.seeds}
            | {"difference": c.difference.mean, "low": low, "high": high, "dof": c.difference.dof}
            | {"p": c.difference.p, "attainable_p": c.difference.attainable_p, "p_holm": c.p_holm, "family": c.family}
            | {"verdict": c.verdict_text, "run_ids": " ".join(c.runs)}
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def against(c: Comparison) -> str:
    """Name the base of a comparison: `lora`, or the values in which the base differs."""
    if c.contrast in ("", CONTROL):
        return c.base.method
    changed = [(name, value) for name, value, own in zip(Row._fields, c.base, c.row, strict=True) if value != own]
    return " ".join(str(value) if name == "variant" else f"{name}={value}" for name, value in changed)
