"""Paired statistics that decide between two methods: intervals, exact tests, Holm's correction, equivalence, verdicts.

The unit is a pair: the same task and seed, trained with both methods. Pairs come in groups; a group is a task, or several tasks
whose runs depend on each other (they start from one adapter). The n values of a group are the differences by seed, averaged over
its tasks. The suite's difference is the weighted sum of the groups' means.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from scipy import stats

ALPHA = 0.05
EXACT_PAIRS = 16  # up to this number of pairs all 2^n sign patterns are counted; beyond it, FLIPS random ones
FLIPS = 20_000
NO_SPREAD = 1e-9  # a smaller standard error, on the scale of tables, comes from rounding equal differences
MOST_SEEDS = 10_000  # larger numbers of seeds are not feasible


class Verdict(StrEnum):
    """The verdicts as they are printed: the first five on a method and its base, the others on a claim of the paper."""

    BETTER = "better"
    WORSE = "worse"
    EQUAL = "no difference"  # larger than the margin
    UNDECIDED = "undecided"
    NO_DATA = "no data"
    REPRODUCED = "reproduced"
    SMALLER = "smaller than claimed"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"
    NOT_TESTED = "not tested here"


@dataclass(frozen=True)
class Difference:
    """A mean paired difference and its uncertainty; `error` and `dof` are None where a group has a single pair."""

    mean: float
    error: float | None  # standard error
    dof: float | None  # degrees of freedom of the t distribution
    sizes: tuple[int, ...]  # pairs per group
    p: float  # of the sign-flip test, two-sided

    @property
    def pairs(self) -> int:
        """Return the number of independent pairs."""
        return sum(self.sizes)

    @property
    def attainable_p(self) -> float:
        """Return the smallest p that this many pairs permit."""
        return attainable_p(self.pairs)

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float] | None:
        """Return the t interval of the mean at a confidence level, or None without an error estimate."""
        if self.error is None or self.dof is None:
            return None
        half = float(stats.t.ppf((1 + level) / 2, self.dof)) * self.error
        return self.mean - half, self.mean + half

    def equivalence_p(self, margin: float) -> float:
        """Return the p of two one-sided t tests that the true difference lies inside +-margin (Schuirmann 1987).

        It is at most alpha exactly where the 1 - 2 alpha interval lies inside. It is 1 without an error estimate, and
        if the differences are equal but fewer than the sign-flip test needs.
        """
        if self.error is None or self.dof is None:
            return 1.0
        if self.error < NO_SPREAD:  # scores have few values: two equal differences are no proof of equality
            return 0.0 if abs(self.mean) < margin and self.pairs >= pairs_needed(1) else 1.0
        return float(stats.t.sf((margin - abs(self.mean)) / self.error, self.dof))


def paired_difference(groups: Sequence[np.ndarray], weights: Sequence[float] = (1.0,)) -> Difference:
    """Estimate a suite's mean difference.

    The standard error is sqrt(sum w_g^2 s_g^2 / n_g) with Welch-Satterthwaite degrees of freedom (Welch 1947); for one group this
    is the paired t test.

    Args:
        groups: per group the differences by seed, (n_g,), at least one each.
        weights: per group its share in the suite's mean.
    """
    values = [np.asarray(group, dtype=float) for group in groups]
    sizes = tuple(len(group) for group in values)
    mean = math.fsum(w * group.mean() for w, group in zip(weights, values, strict=True))
    p = sign_flip_p(np.concatenate([w * group / len(group) for w, group in zip(weights, values, strict=True)]))
    if min(sizes) < 2:
        return Difference(mean, None, None, sizes, p)
    parts = np.array([w**2 * group.var(ddof=1) / len(group) for w, group in zip(weights, values, strict=True)])
    square, divisor = float(parts.sum()), float(sum(parts**2 / (np.array(sizes) - 1)))
    # groups without any spread add no uncertainty; if none has one, any number of degrees gives the same point
    dof = square**2 / divisor if divisor > 0 else float(sum(sizes) - len(sizes))
    return Difference(mean, math.sqrt(square), dof, sizes, p)


def sign_flip_p(terms: np.ndarray) -> float:
    """Return the two-sided p of the sum of `terms` (n,) under random signs: the paired permutation test (Fisher 1935).

    Valid if the differences are independent and, without an effect, symmetric about 0. Exact up to `EXACT_PAIRS` terms; beyond,
    (k + 1) / (FLIPS + 1) over random flips with a fixed seed, which is valid too (Phipson and Smyth 2010).
    """
    n, observed = len(terms), abs(terms.sum())
    bound = observed - 1e-12 * np.abs(terms).sum()  # equal sums count, whatever the order of the additions
    if n <= EXACT_PAIRS:
        return float((np.abs(sign_patterns(n) @ terms) >= bound).mean())
    chunks = np.split(random_signs(n), 20)  # as floats they take eight times the memory
    hits = sum(int((np.abs(chunk.astype(float) @ terms) >= bound).sum()) for chunk in chunks)
    return (hits + 1) / (FLIPS + 1)


@lru_cache(maxsize=2)  # comparisons of one size come together
def random_signs(n: int) -> np.ndarray:
    """Return `FLIPS` random sign patterns, (FLIPS, n) of int8, the same in every process."""
    return 2 * np.random.default_rng(0).integers(0, 2, (FLIPS, n), dtype=np.int8) - 1


@lru_cache(maxsize=EXACT_PAIRS)
def sign_patterns(n: int) -> np.ndarray:
    """Return all sign patterns, (2^n, n), of 1 and -1."""
    return 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) - 1


def attainable_p(pairs: int) -> float:
    """Return the smallest two-sided p of the sign-flip test: all differences of one sign, 2 of 2^n patterns."""
    return 2.0 ** (1 - pairs) if pairs <= EXACT_PAIRS else max(2.0 ** (1 - pairs), 1 / (FLIPS + 1))


def pairs_needed(comparisons: int, alpha: float = ALPHA) -> int:
    """Return the fewest pairs with which the sign-flip test can be significant after Holm over `comparisons`."""
    return math.ceil(1 + math.log2(comparisons / alpha))


def holm(p: Sequence[float], comparisons: int | None = None) -> list[float]:
    """Return Holm's step-down adjusted p values (Holm 1979), in the order given.

    Args:
        p: the p values at hand.
        comparisons: size of the family, if some of its members have no result yet; at least len(p).
    """
    m = max(len(p), comparisons or 0)
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        highest = max(highest, min(1.0, (m - rank) * p[index]))
        adjusted[index] = highest
    return adjusted


def median_interval(values: np.ndarray, level: float = 1 - ALPHA) -> tuple[float, float, float]:
    """Return the order-statistic interval of a median and the coverage that it has, for any continuous distribution.

    The narrowest symmetric pair of order statistics with at least `level`; where n values cannot reach it, their whole range.
    """
    ordered, n = np.sort(values), len(values)
    cut = int(stats.binom.ppf((1 - level) / 2, n, 0.5))  # P(fewer than `cut` below the median) <= (1 - level) / 2
    cut = max(cut, 1)
    coverage = 1 - 2 * float(stats.binom.cdf(cut - 1, n, 0.5))
    return float(ordered[cut - 1]), float(ordered[n - cut]), max(coverage, 0.0)


def judge_claim(difference: Difference, claim: float, p_holm: float, equivalence_p_holm: float) -> Verdict:
    """Judge a claimed difference > 0, first match: reproduced, smaller than claimed, contradicted, inconclusive.

    With the 95% interval [lo, hi]: reproduced if lo > 0 and hi >= claim; smaller than claimed if lo > 0 and hi < claim;
    contradicted if hi < 0, or if the difference lies inside +-claim / 2. A sign counts only if the sign-flip test, too, is
    significant after Holm's correction.

    Args:
        difference: the measured difference.
        claim: the claimed difference, on the same scale.
        p_holm: the adjusted p of the sign-flip test.
        equivalence_p_holm: the adjusted `equivalence_p(claim / 2)`.
    """
    sign, interval = direction(difference, p_holm), difference.interval()
    if sign > 0 and interval is not None:
        return Verdict.REPRODUCED if interval[1] >= claim else Verdict.SMALLER
    return Verdict.CONTRADICTED if sign < 0 or equivalence_p_holm <= ALPHA else Verdict.INCONCLUSIVE


def direction(difference: Difference, p_holm: float) -> int:
    """Return the sign of the difference, 1 or -1, if its 95% interval and adjusted sign-flip p both establish it, else 0."""
    interval = difference.interval()
    if interval is None or p_holm > ALPHA:
        return 0
    return int(interval[0] > 0) - int(interval[1] < 0)


def seeds_to_decide(difference: Difference, claim: float, comparisons: int) -> int | None:
    """Return the seeds per task with which 4 of 5 experiments would decide, if the true difference were `claim` or 0.

    The usual power formula with the spread seen so far: SE (t(1 - a / 2) + t(0.8)) <= claim to see the claim, and
    SE (t(1 - a) + t(0.9)) <= claim / 2 to see equivalence (Julious 2004); a = ALPHA / comparisons, the first step of Holm.

    Returns:
        None if there is no error estimate or more than `MOST_SEEDS` are needed.
    """
    if difference.error is None or difference.dof is None:
        return None
    now, alpha = min(difference.sizes), ALPHA / comparisons
    spread, degrees = difference.error, difference.dof

    def decides(n: int) -> bool:
        if len(difference.sizes) * n < pairs_needed(comparisons):
            return False
        error, dof = spread * math.sqrt(now / n), degrees * (n - 1) / (now - 1)
        to_see = stats.t.ppf(1 - alpha / 2, dof) + stats.t.ppf(0.8, dof)
        to_equate = stats.t.ppf(1 - alpha, dof) + stats.t.ppf(0.9, dof)
        return bool(error * to_see <= claim and error * to_equate <= claim / 2)

    if not decides(MOST_SEEDS):
        return None
    return bisect.bisect_left(range(MOST_SEEDS + 1), True, lo=2, key=decides)  # more seeds never decide less
