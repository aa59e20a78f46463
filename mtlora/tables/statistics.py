"""The statistics that decide between two methods: one interval for each comparison, and words for its position.

The unit is a pair: the same task and seed, trained with both methods. A suite's difference is the mean over tasks of the mean
over a task's pairs. Its interval has the level 1 - 0.05 / m, for the m comparisons of one question that an experiment declares
in one setting, such as a protocol (Bonferroni), so that nominally in at most 5% of experiments any of the m intervals misses its
true difference. Tasks are fixed, not sampled: the interval describes new seeds on these tasks.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

ALPHA = 0.05
POWER = 0.8  # of the experiments would decide
FEWEST = 5  # seeds of each task; with fewer there are estimates, and no verdict
OUTLIER = 5.0  # a pair so many deviations (1.4826 MAD) from the median of its task is named
MOST_SEEDS = 10_000  # larger numbers of seeds are not feasible


class Verdict(StrEnum):
    """The verdicts on a method and its base, as they are printed; `Comparison.verdict_text` adds the margin."""

    BETTER = "better"
    WORSE = "worse"
    EQUAL = "no difference"  # larger than the margin
    UNDECIDED = "undecided"
    TOO_FEW = "too few seeds"
    FAILS = "fails"
    NO_DATA = "no data"


class ClaimVerdict(StrEnum):
    """The verdicts on a claimed gain, as they are printed."""

    HALF = "at least half of the claim"
    SMALLER = "a gain, smaller than claimed"
    GAIN = "a gain, size open"
    NONE = "practically none"
    LOSS = "a loss"
    EXCLUDED = "claimed size excluded, sign open"
    INCONCLUSIVE = "inconclusive"
    TOO_FEW = "too few seeds"
    FAILS = "runs fail"
    NOT_TESTED = "not tested here"


@dataclass(frozen=True)
class Difference:
    """A mean paired difference and its uncertainty; `error` and `dof` are None where a task has a single pair."""

    mean: float
    error: float | None  # standard error
    dof: float | None  # degrees of freedom of the t distribution
    sizes: tuple[int, ...]  # pairs of each task

    @property
    def seeds(self) -> int:
        """The number of pairs of the task that has fewest."""
        return min(self.sizes)

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float] | None:
        """Return the t interval of the mean at a confidence level, or None without an error estimate."""
        if self.error is None or self.dof is None:
            return None
        half = float(stats.t.ppf((1 + level) / 2, self.dof)) * self.error
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """The two-sided p of the t test that the true difference is 0; 1 without an error estimate."""
        if self.error is None or self.dof is None:
            return 1.0
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.dof))

    def is_within(self, margin: float, alpha: float = ALPHA) -> bool:
        """Tell whether two one-sided t tests at `alpha` find the true difference inside +-margin (Schuirmann 1987)."""
        inner = self.interval(1 - 2 * alpha)
        return inner is not None and -margin < inner[0] and inner[1] < margin


def paired_difference(
    tasks: Sequence[Mapping[int, float]], groups: Sequence[str] | None = None, floors: Sequence[float] | None = None
) -> Difference:
    """Estimate the mean over tasks of the mean difference of each task's pairs.

    With d_ts the difference of task t at seed s, n_t pairs a task and T tasks, seed s adds to a group's mean the deviation
    c_s = sum over its tasks of (d_ts - mean_t) / (n_t T). The group's variance is n / (n - 1) sum of c_s^2 with n - 1 degrees of
    freedom, n the smallest n_t; groups add by Welch and Satterthwaite (Welch 1947). For one task this is the paired t test.

    Args:
        tasks: for each task its differences by seed, at least one.
        groups: for each task the name of its group: tasks whose runs start from one adapter are not independent. Default: a
            group for each task.
        floors: for each task the smallest standard deviation of a pair's difference that is believed. Scores on n items are
            multiples of 1/n, so differences without spread are no proof of certainty.
    """
    values = [np.array(list(task.values()), dtype=float) for task in tasks]
    sizes = tuple(map(len, values))
    mean = math.fsum(float(v.mean()) for v in values) / len(values)
    if min(sizes) < 2:
        return Difference(mean, None, None, sizes)
    names = list(groups) if groups is not None else [str(i) for i in range(len(tasks))]
    least = list(floors) if floors is not None else [0.0] * len(tasks)
    variances, degrees = [], []
    for name in dict.fromkeys(names):
        own = [t for t in range(len(tasks)) if names[t] == name]
        parts: dict[int, float] = {}
        for t in own:
            for seed, value in tasks[t].items():
                parts[seed] = parts.get(seed, 0.0) + (value - float(values[t].mean())) / (sizes[t] * len(tasks))
        n = min(sizes[t] for t in own)
        floor = math.fsum((least[t] / len(tasks)) ** 2 / sizes[t] for t in own)
        variances.append(max(n / (n - 1) * math.fsum(c * c for c in parts.values()), floor))
        degrees.append(n - 1)
    total = math.fsum(variances)
    divisor = math.fsum(v**2 / n for v, n in zip(variances, degrees, strict=True))
    dof = total**2 / divisor if divisor > 0 else float(sum(degrees))  # without any spread the interval is a point
    return Difference(mean, math.sqrt(total), dof, sizes)


def mixture(weights: Sequence[float], found: Sequence[Difference]) -> Difference:
    """Return the difference of which it is unsure which of several estimates applies, such as of two learning rates.

    mean = sum w_k mean_k; SE^2 = sum w_k SE_k^2 + sum w_k (mean_k - mean)^2, with the fewest degrees of freedom.

    Args:
        weights: of the estimates, in sum 1.
        found: the estimates.
    """
    mean = math.fsum(w * d.mean for w, d in zip(weights, found, strict=True))
    sizes = tuple(map(min, zip(*(d.sizes for d in found), strict=True)))
    known = [(d.error, d.dof) for d in found if d.error is not None and d.dof is not None]
    if len(known) < len(found):
        return Difference(mean, None, None, sizes)
    within = math.fsum(w * error**2 for w, (error, _) in zip(weights, known, strict=True))
    between = math.fsum(w * (d.mean - mean) ** 2 for w, d in zip(weights, found, strict=True))
    return Difference(mean, math.sqrt(within + between), min(dof for _, dof in known), sizes)


def judge(difference: Difference, family: int, margin: float) -> tuple[Verdict, str]:
    """Return the verdict on a difference (higher is better), and how its size relates to the margin: more, less or neither.

    Better: the interval of the level 1 - 0.05 / family lies above 0; by more than the margin if it lies above the margin, by less
    if two one-sided tests find the difference within it. Worse likewise. Equal: not better or worse, and within the margin.
    """
    alpha = ALPHA / family
    interval = difference.interval(1 - alpha)
    if interval is None or difference.seeds < FEWEST:
        return Verdict.TOO_FEW, ""
    low, high = interval
    within = difference.is_within(margin, alpha)
    if low > 0 or high < 0:
        size = "more" if max(low, -high) > margin else "less" if within else ""
        return Verdict.BETTER if low > 0 else Verdict.WORSE, size
    return (Verdict.EQUAL if within else Verdict.UNDECIDED), ""


def judge_claim(difference: Difference, claim: float, family: int) -> ClaimVerdict:
    """Judge a claimed gain > 0 by the position of the interval [low, high] of the level 1 - 0.05 / family, first match:

    at least half of the claim: low >= claim / 2; a gain, smaller than claimed: low > 0, high < claim; a gain, size open: low > 0;
    practically none: two one-sided tests find the difference within half of the claim; a loss: high < 0; claimed size excluded,
    sign open: high < claim; inconclusive: otherwise.
    """
    alpha = ALPHA / family
    interval = difference.interval(1 - alpha)
    if interval is None or difference.seeds < FEWEST:
        return ClaimVerdict.TOO_FEW
    low, high = interval
    if low >= claim / 2:
        return ClaimVerdict.HALF
    if low > 0:
        return ClaimVerdict.SMALLER if high < claim else ClaimVerdict.GAIN
    if difference.is_within(claim / 2, alpha):
        return ClaimVerdict.NONE
    if high < 0:
        return ClaimVerdict.LOSS
    return ClaimVerdict.EXCLUDED if high < claim else ClaimVerdict.INCONCLUSIVE


def _with_seeds(difference: Difference, seeds: int, spread: float = 1.0) -> tuple[float, float]:
    """Return the standard error and the degrees of freedom with another number of seeds and `spread` times the spread seen."""
    assert difference.error is not None
    assert difference.dof is not None
    now = difference.seeds
    return spread * difference.error * math.sqrt(now / seeds), difference.dof * (seeds - 1) / (now - 1)


def visible(difference: Difference, seeds: int, family: int) -> float | None:
    """Return the smallest true difference that 4 of 5 experiments with some number of seeds would call better or worse.

    SE (t(1 - a / 2) + t(0.8)) with a = 0.05 / family, and the spread seen so far; None without an error estimate.
    """
    if difference.error is None or seeds < 2:
        return None
    error, dof = _with_seeds(difference, seeds)
    return error * float(stats.t.ppf(1 - ALPHA / family / 2, dof) + stats.t.ppf(POWER, dof))


@dataclass(frozen=True)
class Seeds:
    """Seeds of each task that 4 of 5 experiments would need, and an 80% range of this number; None: not feasible."""

    seeds: int | None
    low: int | None
    high: int | None


def seeds_to_see(difference: Difference, size: float, family: int) -> Seeds | None:
    """Return the seeds with which a true difference of `size` would be called better or worse."""
    a = ALPHA / family
    return _needed(difference, lambda dof: float(stats.t.ppf(1 - a / 2, dof) + stats.t.ppf(POWER, dof)), size)


def seeds_to_equate(difference: Difference, margin: float, family: int) -> Seeds | None:
    """Return the seeds with which equal methods would be found equal within the margin (Julious 2004)."""
    a, beta = ALPHA / family, 1 - POWER
    return _needed(difference, lambda dof: float(stats.t.ppf(1 - a, dof) + stats.t.ppf(1 - beta / 2, dof)), margin)


def _needed(difference: Difference, quantiles: Callable[[float], float], size: float) -> Seeds | None:
    if difference.error is None or difference.dof is None:
        return None
    # The true spread lies between these factors of the one seen, in 80% of cases.
    low, high = (math.sqrt(difference.dof / float(stats.chi2.ppf(q, difference.dof))) for q in (0.9, 0.1))

    def fewest(spread: float) -> int | None:
        def decides(n: int) -> bool:
            error, dof = _with_seeds(difference, n, spread)
            return error * quantiles(dof) <= size

        if not decides(MOST_SEEDS):
            return None
        return bisect.bisect_left(range(MOST_SEEDS + 1), True, lo=FEWEST, key=decides)  # more seeds never decide less

    return Seeds(fewest(1.0), fewest(low), fewest(high))


def heterogeneity_p(tasks: Sequence[Mapping[int, float]]) -> float | None:
    """Return the p of Welch's F test that the true difference is the same on all tasks with a spread; None for fewer than 2."""
    values = [v for task in tasks if len(v := np.array(list(task.values()), dtype=float)) > 1 and v.std() > 1e-9]
    if len(values) < 2:
        return None
    return float(stats.f_oneway(*values, equal_var=False).pvalue)


def outliers(values: Sequence[float], floor: float = 0.0) -> list[int]:
    """Return the indices of values more than `OUTLIER` deviations (1.4826 MAD, or `floor` if larger) from the median."""
    array = np.asarray(values, dtype=float)
    away = np.abs(array - np.median(array))
    deviation = max(1.4826 * float(np.median(away)), floor)
    return [i for i, a in enumerate(away) if a > OUTLIER * deviation > 0]
