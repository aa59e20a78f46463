"""MTLoRA against LoRA in a plan's runs: paired differences by task and suite, and verdicts on the headline score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from mtlora.plan.grid import Plan
from mtlora.tables.aggregate import Row
from mtlora.tables.statistics import (
    ALPHA,
    FEWEST,
    MOST_SEEDS,
    Difference,
    Seeds,
    Verdict,
    judge,
    seeds_to_equate,
    seeds_to_see,
    visible,
)

CONTROL = "control"  # the contrast of a method with its control


@dataclass(frozen=True)
class Pair:
    """One task and seed, trained with both methods."""

    task: str
    seed: int
    values: tuple[float, float]  # of the method and the base, on the table's scale
    runs: tuple[str, str]  # likewise

    @property
    def difference(self) -> float:
        """The method's value less the base's."""
        return self.values[0] - self.values[1]


@dataclass(frozen=True)
class Headline:
    """What a comparison in the headline score has besides its difference: everything that its verdict needs."""

    margin: float  # of equality
    as_published: Difference | None  # at the epoch that the literature selects
    informative: Difference | None  # over the tasks on which both rows are above the majority answer
    dull: tuple[str, ...]  # the other tasks
    failed: tuple[tuple[str, ...], tuple[str, ...]]  # runs of the row and of the base that diverged
    finished: tuple[int, int]  # the number of their runs, with those that diverged
    rates: int  # combinations of learning rates over which the difference is weighted; several if a choice is unsure
    unconfirmed: bool  # a choice is unsure, and runs at the second best learning rate are missing


@dataclass(frozen=True)
class Comparison:
    """A row of a table against its base row in one column, or in the suite's average."""

    row: Row
    base: Row
    contrast: (
        str  # empty: the base is LoRA; `control`: a control of the method; else the swept key in which the rows differ
    )
    task: str
    split: str
    metric: str
    label: str
    digits: int  # with which the difference is printed
    pairs: tuple[Pair, ...]  # at the best learning rate
    difference: Difference | None  # None: a task has no pair
    family: int  # number of comparisons that the level of a verdict's interval accounts for
    head: Headline | None  # only the headline score has one, and a verdict
    floors: dict[str, float]  # task -> what one test item is worth
    groups: tuple[str, ...]  # for each task what its runs start from: tasks of one group are not independent

    @property
    def seeds(self) -> int:
        """The number of pairs of the task that has fewest."""
        return self.difference.seeds if self.difference else 0

    @property
    def level(self) -> float:
        """The confidence level: simultaneous for the headline score, 95% for others, which have no verdict."""
        return 1 - ALPHA / (self.family if self.head else 1)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the difference at this level."""
        return self.difference.interval(self.level) if self.difference else None

    @property
    def judged(self) -> tuple[Verdict, str]:
        """The verdict on the two methods, independent of the paper's claims, and how its size relates to the margin."""
        assert self.head is not None
        if any(self.head.failed):
            return Verdict.FAILS, ""
        if self.difference is None:
            return Verdict.NO_DATA, ""
        verdict, size = judge(self.difference, self.family, self.head.margin)
        if self.head.dull and (verdict is Verdict.EQUAL or size == "less"):
            # Tasks that a method has not learned say nothing about how small a difference is.
            others = self.head.informative
            if others is None or not others.is_within(self.head.margin, ALPHA / self.family):
                return (Verdict.UNDECIDED if verdict is Verdict.EQUAL else verdict), ""
        return verdict, size

    @property
    def verdict(self) -> Verdict | None:
        """The verdict, or None for a score that has none."""
        return self.judged[0] if self.head else None

    @property
    def verdict_text(self) -> str:
        """The printed verdict."""
        if self.head is None:
            return ""
        verdict, size = self.judged
        if verdict is Verdict.EQUAL:
            return f"{verdict} larger than {self.head.margin:g}"
        if verdict is Verdict.TOO_FEW:
            return f"{verdict} ({self.seeds} of at least {FEWEST})"
        if verdict is Verdict.FAILS:
            sides = zip(("fails", f"{against(self)} fails"), self.head.failed, self.head.finished, strict=True)
            return ", ".join(f"{name} in {len(runs)} of {total} runs" for name, runs, total in sides if runs)
        return f"{verdict}, by {size} than {self.head.margin:g}" if size else str(verdict)

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of the runs behind the comparison, at the best learning rate."""
        return tuple(dict.fromkeys(run for pair in self.pairs for run in pair.runs))


def by_task(pairs: Sequence[Pair]) -> dict[str, dict[int, float]]:
    """Return the differences of pairs by task and seed."""
    found: dict[str, dict[int, float]] = {}
    for pair in pairs:
        found.setdefault(pair.task, {})[pair.seed] = pair.difference
    return found


def headlines(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with LoRA in the headline score."""
    return [c for c in comparisons if not c.contrast and c.head]


def seeds_needed(c: Comparison) -> tuple[Seeds, Seeds] | None:
    """Return the seeds to see a difference as large as the margin, and to show that there is none; None if none would decide."""
    if c.difference is None or c.head is None or c.head.dull or c.head.rates > 1:
        return None
    see = seeds_to_see(c.difference, c.head.margin, c.family)
    equate = seeds_to_equate(c.difference, c.head.margin, c.family)
    return (see, equate) if see and equate else None


def is_between(c: Comparison) -> bool:
    """Tell whether there are enough seeds to see the margin and to show equality, so that the difference seems to lie between."""
    found = seeds_needed(c)
    return found is not None and all(one.seeds is not None and one.seeds <= c.seeds for one in found)


def needed(c: Comparison) -> str:
    """Return a text about the numbers of seeds that would decide; empty where no number of seeds would."""
    found = seeds_needed(c)
    if c.head is None or found is None:
        return ""
    margin = c.head.margin
    if is_between(c):
        return f"the difference seems to lie between 0 and {margin:g}, which only more than {c.seeds} seeds can tell from both"
    see, equate = map(seeds_text, found)
    return f"seeds needed: {see} to see a difference of {margin:g}, {equate} to exclude it"


def reach(plan: Plan, comparisons: Sequence[Comparison]) -> str | None:
    """Say which difference to LoRA the planned seeds can see, from the spread of the runs so far; None without a headline."""
    heads = headlines(comparisons)
    seeds = len({cell.config.seed for cell in plan.cells})
    if not heads:
        return None
    if seeds < FEWEST:
        return f"{seeds} seed{'s' * (seeds > 1)} give estimates only: a verdict needs at least {FEWEST}"
    found = [v for c in heads if c.difference and (v := visible(c.difference, seeds, c.family)) is not None]
    if not found:
        return f"the smallest difference {seeds} seeds can detect is known once two seeds of each task are finished"
    low, high = (f"{value:.2g}" for value in (min(found), max(found)))
    size = low if low == high else f"{low} to {high}, depending on the method"
    so_far = min(c.seeds for c in heads if c.difference)
    return (
        f"{seeds} seeds can detect a difference to LoRA of {size} points, in 4 of 5 experiments (a rough estimate from "
        f"the spread of {so_far} seeds so far)"
    )


def seeds_text(found: Seeds) -> str:
    """Write a number of seeds with its 80% range."""
    if found.seeds is None:
        return f"over {MOST_SEEDS:,}"
    return f"{found.seeds:,} ({found.low:,} to {f'{found.high:,}' if found.high else f'over {MOST_SEEDS:,}'})"


COLUMNS = [
    *("table", "model", "method", "rank", "targets", "protocol", "variant", "against", "task", "split", "metric"),
    *("selection", "pairs", "seeds", "difference", "low", "high", "level", "dof", "p", "family", "verdict", "run_ids"),
]


def comparison_frame(plan: Plan, comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return a row per comparison: the difference, its interval and level, the p of the t test, the verdict and the runs."""
    rows = []
    for c in comparisons:
        if not c.pairs and c.verdict is not Verdict.FAILS:
            continue
        low, high = c.interval or (None, None)
        d = c.difference
        rows.append(
            c.row._asdict()
            | {"table": plan.name, "against": against(c), "task": c.task, "split": c.split, "metric": c.metric}
            | {"selection": plan.experiment.selection, "pairs": len(c.pairs), "seeds": c.seeds}
            | {"difference": d and d.mean, "low": low, "high": high, "level": c.level, "dof": d and d.dof}
            | {"p": d and d.p, "family": c.family, "verdict": c.verdict_text, "run_ids": " ".join(c.runs)}
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def against(c: Comparison, name: Callable[[str], str] = str) -> str:
    """Name the base of a comparison: its method, where that is meant, and the values in which its setting differs."""
    settings = zip(Row._fields, c.base.setting, c.row.setting, strict=True)
    changed = [value if field == "variant" else f"{field}={value}" for field, value, own in settings if value != own]
    return " ".join([*([name(c.base.method)] if c.contrast in ("", CONTROL) else []), *map(str, changed)])
