"""Tuning files of trials that never took place, with scores that a test can choose."""

from collections.abc import Callable, Iterable, Sequence

from mtlora.plan.grid import Plan
from mtlora.plan.tuning import Choice, Trial, Tuning, save_tuning

Score = Callable[[str, str, float, int], float | None]  # method, task, factor, seed -> score; None: the trial diverged

SEEDS = (100, 101)


def trials_of(
    methods: Iterable[str], tasks: Sequence[str], factors: Iterable[float], score: Score, majority: float, setting: str
) -> list[Trial]:
    """Return a trial for each combination."""
    trials = []
    for method in methods:
        for task in tasks:
            for factor in factors:
                for seed in SEEDS:
                    value = score(method, task, factor, seed)
                    name = f"{task}-{method}-x{factor:g}-seed{seed}{setting and '-' + setting}"
                    found = majority if value is None else value
                    trials.append(Trial(method, task, factor, seed, found, value is None, name, setting))
    return trials


def make_tuning(
    methods: Sequence[str],
    groups: Sequence[Sequence[str]],
    factors: Sequence[float],
    score: Score,
    *,
    majority: float = 0.0,
    settings: Sequence[str] = ("",),
    shares: dict[str, float] | None = None,
) -> Tuning:
    """Return what `mtlora.tune` would write: for each setting, group of tasks and method the factor with the best mean score."""
    tuning = Tuning("glue", "mini", "task" if all(len(g) == 1 for g in groups) else "suite", [*factors], [*SEEDS])
    for setting in settings:
        for tasks in groups:
            trials = trials_of(methods, tasks, factors, score, majority, setting)
            tuning.trials += trials
            for method in methods:
                sums = {f: sum(t.score for t in trials if (t.method, t.multiplier) == (method, f)) for f in factors}
                best, second = sorted(factors, key=lambda f: -sums[f])[:2]
                share = (shares or {}).get(method, 1.0)
                tuning.choices.append(
                    Choice(method, [*tasks], best, share, second, 1 - share, 0.0, 0.0, [method], setting)
                )
    return tuning


def write_tuning(plan: Plan, tuning: Tuning) -> None:
    """Write a plan's tuning file."""
    save_tuning(tuning, plan.results / "tuned" / f"{plan.stem}.yaml")
