"""MTLoRA against LoRA in a plan's runs: paired differences by task and suite, Holm over the structures, verdicts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mtlora.config.metrics import METRICS
from mtlora.plan.cell import Cell, override_key
from mtlora.plan.experiment import Claim, Column
from mtlora.plan.grid import Plan
from mtlora.records.record import RunRecord
from mtlora.tables.aggregate import ROW, column_values, comparable, long_frame, row_keys, shown_columns
from mtlora.tables.statistics import (
    ALPHA,
    Difference,
    direction,
    holm,
    judge_claim,
    paired_difference,
    pairs_needed,
    seeds_to_decide,
)

Row = tuple[Any, ...]  # the values of aggregate.ROW
METHOD = ROW.index("method")


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
    contrast: str  # the swept key in which the rows differ; empty: the base is LoRA
    task: str
    split: str
    metric: str
    label: str
    pairs: tuple[Pair, ...]
    difference: Difference | None  # None: no seed has all tasks with both methods
    seeds: int
    family: int  # comparisons that Holm's correction is over
    margin: float | None = None  # of the headline figure
    convention: tuple[Pair, ...] = ()  # of the headline figure: the pairs of the epoch that the literature selects
    p_holm: float = 1.0
    equivalence_p_holm: float = 1.0  # for the margin

    @property
    def verdict(self) -> str:
        """Return what these runs say without any claim: better, worse, no difference larger than x, undecided."""
        if self.difference is None:
            return "no data"
        if sign := direction(self.difference, self.p_holm):
            lower_is_better = self.metric in METRICS and not METRICS[self.metric].higher_is_better
            return "better" if (sign > 0) != lower_is_better else "worse"
        if self.margin is not None and self.equivalence_p_holm <= ALPHA:
            return f"no difference larger than {self.margin:g}"
        return "undecided"


@dataclass(frozen=True)
class ClaimVerdict:
    """What a plan's runs say about a claim of the paper, for one structure, or for none."""

    claim: Claim
    method: str  # empty: all structures
    comparison: Comparison | None
    verdict: str  # reproduced, smaller than claimed, contradicted, inconclusive, not tested here
    why: str


def compare(plan: Plan, records: dict[str, RunRecord]) -> list[Comparison]:
    """Compare every row of a plan with LoRA in the same setting, and along the experiment's contrasts.

    Args:
        plan: the experiment's cells.
        records: their usable records, by config_sha.
    """
    values = column_values(plan, long_frame(plan, records))
    table: dict[tuple[Row, str, int], dict[int, tuple[float, str]]] = {}
    for item in values.to_dict("records"):
        key = (tuple(item[name] for name in ROW), item["selection"], item["column"])
        table.setdefault(key, {})[item["seed"]] = (item["value"], item["run_id"])
    comparisons = []
    for rivals, size in _families(plan):
        for task in [*range(len(shown_columns(plan))), None]:
            if task is None and not plan.experiment.average:
                continue
            comparisons += _corrected([_compare(plan, table, rival, task, size) for rival in rivals], size)
    return comparisons


@dataclass(frozen=True)
class _Rival:
    """A row and the row that it is compared with."""

    row: Row
    base: Row
    contrast: str


def _families(plan: Plan) -> Iterable[tuple[list[_Rival], int]]:
    """Yield what Holm's correction takes together, and how many that are.

    The structures of one setting count as the experiment declares them: leaving some out on the command line must not make
    the others significant.
    """
    rows = list(dict.fromkeys(row_of(plan, cell) for cell in plan.cells))
    declared = {str(method) for method in plan.experiment.axes.get("transform", [])} - {"lora"}
    settings = dict.fromkeys(setting_of(row) for row in rows)
    for setting in settings:
        inside = [row for row in rows if setting_of(row) == setting]
        base = next((row for row in inside if row[METHOD] == "lora"), None)
        if base is not None and len(inside) > 1:
            rivals = [_Rival(row, base, "") for row in inside if row != base]
            yield rivals, len(declared | {rival.row[METHOD] for rival in rivals})
    for key in plan.experiment.contrasts:
        by_value: dict[str, dict[tuple[str, ...], Row]] = {}
        for cell in plan.cells:
            others = tuple(o for o in cell.overrides if override_key(o) not in (key, "seed", "task"))
            value = next((o.partition("=")[2] for o in cell.overrides if override_key(o) == key), "")
            by_value.setdefault(value, {})[others] = row_of(plan, cell)
        first, *values = plan.axes.get(key, [""])
        for value in values:
            pairs = [(row, by_value.get(first, {}).get(o)) for o, row in by_value.get(value, {}).items()]
            rivals = [_Rival(row, base, key) for row, base in pairs if base is not None and base != row]
            for setting in dict.fromkeys(setting_of(rival.row) for rival in rivals):
                family = [rival for rival in rivals if setting_of(rival.row) == setting]
                yield family, len(family)


def row_of(plan: Plan, cell: Cell) -> Row:
    """Return the row of the table that a cell belongs to."""
    return tuple(row_keys(plan, cell).values())


def setting_of(row: Row) -> Row:
    """Return everything of a row but its method."""
    return tuple(value for position, value in enumerate(row) if position != METHOD)


def _compare(
    plan: Plan,
    table: dict[tuple[Row, str, int], dict[int, tuple[float, str]]],
    rival: _Rival,
    number: int | None,
    family: int,
) -> Comparison:
    columns = shown_columns(plan)
    column = columns[number] if number is not None else Column("average", "", "mean", "Average")
    members = list(range(len(columns))) if number is None else [number]

    def pairs_of(selection: str) -> list[Pair]:
        """Return the pairs of the seeds that every task has: an average over other tasks is another figure."""
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
        *(rival.row, rival.base, rival.contrast, column.task, column.split, column.metric, column.label),
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
    """Fill in the p values after Holm's correction; structures without data still count in the family."""
    found = [c for c in comparisons if c.difference is not None]
    p = holm([c.difference.p for c in found if c.difference], family)
    same = holm([c.difference.equivalence_p(c.margin or 0.0) for c in found if c.difference], family)
    filled = iter(replace(c, p_holm=a, equivalence_p_holm=b) for c, a, b in zip(found, p, same, strict=True))
    return [c if c.difference is None else next(filled) for c in comparisons]


def headlines(plan: Plan, comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with LoRA in the headline figure."""
    h = plan.experiment.headline
    key = (h.task, h.split, h.metric)
    return [c for c in comparisons if not c.contrast and (c.task, c.split, c.metric) == key]


def claim_verdicts(plan: Plan, comparisons: Sequence[Comparison]) -> list[ClaimVerdict]:
    """Judge every claim of the experiment for every structure and set of target modules; Holm over the structures."""
    verdicts = []
    for claim in plan.experiment.claims:
        fitting = [c for c in headlines(plan, comparisons) if c.row[0] == claim.model and _fits(plan, c)]
        if not fitting:
            verdicts.append(ClaimVerdict(claim, "", None, "not tested here", _unfit(plan, claim)))
        for setting in dict.fromkeys(c.base for c in fitting):
            family = [c for c in fitting if c.base == setting]
            found = [c for c in family if c.difference is not None]
            same = iter(
                holm(
                    [c.difference.equivalence_p(claim.difference / 2) for c in found if c.difference], family[0].family
                )
            )
            for c in family:
                if c.difference is None:
                    verdict, why = "not tested here", "runs are missing"
                else:
                    verdict = judge_claim(c.difference, claim.difference, c.p_holm, next(same))
                    why = needed(c, claim.difference) if verdict == "inconclusive" else ""
                verdicts.append(ClaimVerdict(claim, c.row[METHOD], c, verdict, why))
    return verdicts


def _fits(plan: Plan, c: Comparison) -> bool:
    """Tell whether a comparison is about the claim's setting: the paper's profile, data, recipe, rank and all of its tasks."""
    cells = [cell for cell in plan.cells if row_of(plan, cell) in (c.row, c.base)]
    rank = f"r{c.row[ROW.index('rank')]}" in map(str, plan.experiment.axes["rank"])
    whole = len(shown_columns(plan)) == len(plan.experiment.columns)
    return rank and whole and all(map(comparable, cells))


def _unfit(plan: Plan, claim: Claim) -> str:
    ranks = ", ".join(map(str, plan.experiment.axes["rank"]))
    return f"the claim is about {claim.model}, rank {ranks}, the profile paper and all of its data and tasks"


def needed(c: Comparison, size: float) -> str:
    """Say how many seeds would decide whether a difference of `size` is there."""
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
        return f"the difference seems to lie between 0 and {size:g}, which more than {c.seeds} seeds could tell"
    return f"about {seeds} seeds would decide"


COLUMNS = [
    *("table", "model", "method", "rank", "targets", "variant", "against", "task", "split", "metric", "selection"),
    *(
        "pairs",
        "seeds",
        "difference",
        "low",
        "high",
        "dof",
        "p",
        "attainable_p",
        "p_holm",
        "family",
        "verdict",
        "run_ids",
    ),
]


def comparison_frame(plan: Plan, comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return a row per comparison: the difference, its 95% interval, sign-flip p, Holm's p, verdict, and the runs behind it."""
    rows = []
    for c in comparisons:
        if c.difference is None:
            continue
        low, high = c.difference.interval() or (None, None)
        keys = dict(zip(ROW, c.row, strict=True))
        rows.append(
            keys
            | {"table": plan.name, "against": against(c), "task": c.task, "split": c.split, "metric": c.metric}
            | {"selection": plan.experiment.selection, "pairs": c.difference.pairs, "seeds": c.seeds}
            | {"difference": c.difference.mean, "low": low, "high": high, "dof": c.difference.dof}
            | {"p": c.difference.p, "attainable_p": c.difference.attainable_p, "p_holm": c.p_holm, "family": c.family}
            | {"verdict": c.verdict, "run_ids": " ".join(runs_of(c))}
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def against(c: Comparison) -> str:
    """Name the base of a comparison: `lora`, or the values in which it differs."""
    if not c.contrast:
        return "lora"
    changed = [(name, value) for name, value, own in zip(ROW, c.base, c.row, strict=True) if value != own]
    return " ".join(str(value) if name == "variant" else f"{name}={value}" for name, value in changed)


def runs_of(c: Comparison) -> tuple[str, ...]:
    """Return the run ids behind a comparison."""
    return tuple(dict.fromkeys(run for pair in c.pairs for run in pair.runs))
