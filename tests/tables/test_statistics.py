"""Paired statistics against scipy, simulated power and formulas written out by hand."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from mtlora.tables.statistics import (
    ClaimVerdict,
    Difference,
    Verdict,
    heterogeneity_p,
    judge,
    judge_claim,
    outliers,
    paired_difference,
    seeds_to_equate,
    seeds_to_see,
    visible,
)


def normal(n: int, seed: int = 0, mean: float = 0.4) -> np.ndarray:
    return np.random.default_rng([seed, n]).normal(mean, 1.0, n)


def by_seed(values: np.ndarray | list[float]) -> dict[int, float]:
    return dict(enumerate(map(float, values)))


def of(
    *tasks: np.ndarray | list[float], groups: list[str] | None = None, floors: list[float] | None = None
) -> Difference:
    return paired_difference([by_seed(task) for task in tasks], groups, floors)


def measured(low: float, high: float, family: int = 1, seeds: int = 10) -> Difference:
    """Return a difference whose interval at the level 1 - 0.05 / family is [low, high]."""
    dof = seeds - 1.0
    error = (high - low) / 2 / stats.t.ppf(1 - 0.05 / family / 2, dof)
    return Difference((low + high) / 2, float(error), dof, (seeds,))


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13, 30])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.9875])
def test_one_task_is_the_paired_t_test(n: int, level: float) -> None:
    ours, theirs = normal(n, 1, 80.0), normal(n, 2, 79.5)
    found, expected = of(ours - theirs), stats.ttest_rel(ours, theirs)
    assert found.mean == pytest.approx(ours.mean() - theirs.mean())
    assert (found.sizes, found.seeds) == ((n,), n)
    assert found.dof == pytest.approx(n - 1)
    assert found.error == pytest.approx(stats.sem(ours - theirs))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval(level) == pytest.approx(tuple(expected.confidence_interval(level)))


@pytest.mark.parametrize("sizes", [(5, 9), (2, 3), (10, 10)])
def test_two_tasks_are_welchs_test(sizes: tuple[int, int]) -> None:
    one, other = normal(sizes[0], 6), 3 * normal(sizes[1], 7)
    found, expected = of(one, -other), stats.ttest_ind(one, other, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx((one.mean() - other.mean()) / 2)
    assert found.dof == pytest.approx(expected.df)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval() == pytest.approx((low / 2, high / 2))
    assert (found.sizes, found.seeds) == (sizes, min(sizes))


def test_tasks_by_hand_each_with_its_own_seeds() -> None:
    # means 2, 1, -1; variances 1, 8, 2; parts of the variance 1/9 * 1/3, 1/9 * 8/2, 1/9 * 2/2
    found = paired_difference([{0: 1.0, 1: 2.0, 2: 3.0}, {4: -1.0, 7: 3.0}, {0: -2.0, 1: 0.0}])
    parts = [Fraction(1, 27), Fraction(4, 9), Fraction(1, 9)]
    dof = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 + parts[2] ** 2)
    assert found.mean == pytest.approx(2 / 3)
    assert found.error == pytest.approx(math.sqrt(sum(parts)))
    assert found.dof == pytest.approx(float(dof))
    assert found.sizes == (3, 2, 2)


def test_dependent_tasks_are_averaged_by_seed_first() -> None:
    a, b, c = normal(6, 1), normal(6, 2), normal(6, 3)
    found = of(a, b, c, groups=["x", "x", "y"])
    parts = [np.var((a + b) / 2, ddof=1) / 6 * 4 / 9, np.var(c, ddof=1) / 6 / 9]
    assert found.mean == pytest.approx((a.mean() + b.mean() + c.mean()) / 3)
    assert found.error == pytest.approx(math.sqrt(sum(parts)))
    assert found.dof == pytest.approx(sum(parts) ** 2 / sum(p**2 / 5 for p in parts))
    twice = of(a, a, groups=["x", "x"])  # a copy adds no information
    assert (twice.mean, twice.error) == (pytest.approx(of(a).mean), pytest.approx(of(a).error))
    assert of(a, a).error == pytest.approx(of(a).error / math.sqrt(2))


def test_a_missing_pair_takes_one_pair_of_its_group_and_no_more() -> None:
    a, b = by_seed(normal(8, 1)), by_seed(normal(8, 2))
    del b[3]
    found = paired_difference([a, b], ["x", "x"])
    assert found.mean == pytest.approx((np.mean(list(a.values())) + np.mean(list(b.values()))) / 2)
    assert found.sizes == (8, 7)
    whole = paired_difference([{s: v for s, v in a.items() if s != 3}, b], ["x", "x"])
    assert found.error == pytest.approx(whole.error, rel=0.25)


@pytest.mark.parametrize("tasks", [[[0.5]], [[1.0, 2.0, 1.5], [0.5]]])
def test_a_task_with_a_single_pair_gives_no_interval(tasks: list[list[float]]) -> None:
    found = of(*tasks)
    assert (found.error, found.dof, found.interval(), found.p) == (None, None, None, 1.0)
    assert found.mean == pytest.approx(np.mean([np.mean(task) for task in tasks]))
    assert not found.is_within(1000.0)
    assert judge(found, 1, 0.5)[0] is Verdict.TOO_FEW
    assert judge_claim(found, 1.0, 1) is ClaimVerdict.TOO_FEW
    assert seeds_to_see(found, 1.0, 4) is seeds_to_equate(found, 1.0, 4) is visible(found, 8, 4) is None


def test_without_spread_the_interval_is_a_point_unless_items_limit_it() -> None:
    found = of([0.25] * 6, [0.75] * 6)
    assert (found.error, found.interval(), found.p) == (0.0, (0.5, 0.5), 0.0)
    item = 100 / 277  # of RTE: five equal accuracies of both methods
    limited = of([0.0] * 5, floors=[item])
    assert limited.error == pytest.approx(item / math.sqrt(5))
    assert judge(of([0.0] * 5), 4, 0.5)[0] is Verdict.EQUAL
    assert judge(limited, 4, 0.5)[0] is Verdict.UNDECIDED, "five equal accuracies prove nothing"
    spread = normal(5, 3)
    assert of(spread, floors=[item]).error == of(spread).error, "a floor below the spread changes nothing"
    assert of([0.0] * 4, spread, floors=[item, 0.0]).error == pytest.approx(
        math.sqrt(item**2 / 4 + spread.var(ddof=1) / 5) / 2
    )


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.05, 0.0125])
def test_equivalence_is_two_one_sided_t_tests(margin: float, alpha: float) -> None:
    for mean in (-0.3, 0.0, 0.6):
        values = normal(8, 10, mean)
        above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(values, margin, alternative="less").pvalue
        assert of(values).is_within(margin, alpha) == bool(max(above, below) < alpha)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 2.0, (Verdict.BETTER, "")),
        (0.6, 2.0, (Verdict.BETTER, "more")),
        (0.05, 0.3, (Verdict.BETTER, "less")),
        (-2.0, -0.1, (Verdict.WORSE, "")),
        (-2.0, -0.6, (Verdict.WORSE, "more")),
        (-0.3, -0.05, (Verdict.WORSE, "less")),
        (-0.3, 0.3, (Verdict.EQUAL, "")),
        (-0.3, 0.52, (Verdict.EQUAL, "")),  # one-sided tests: their interval is narrower
        (-0.3, 0.9, (Verdict.UNDECIDED, "")),
        (-3.0, 3.0, (Verdict.UNDECIDED, "")),
    ],
)
@pytest.mark.parametrize("family", [1, 4])
def test_a_verdict_is_the_position_of_the_interval(
    low: float, high: float, expected: tuple[Verdict, str], family: int
) -> None:
    assert judge(measured(low, high, family), family, 0.5) == expected
    assert judge(measured(low, high, family, seeds=4), family, 0.5) == (Verdict.TOO_FEW, "")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.501, 3.0, "at least half of the claim"),
        (0.6, 0.9, "at least half of the claim"),
        (0.25, 0.85, "a gain, smaller than claimed"),
        (0.1, 0.3, "a gain, smaller than claimed"),
        (0.05, 1.05, "a gain, size open"),
        (-0.1, 0.4, "practically none"),
        (-0.4, -0.1, "practically none"),
        (-3.0, -0.2, "a loss"),
        (-0.9, 0.8, "claimed size excluded, sign open"),
        (-0.9, 1.2, "inconclusive"),
        (-9.0, 9.0, "inconclusive"),
    ],
)
@pytest.mark.parametrize("family", [1, 8])
def test_the_verdict_on_a_claim_is_the_position_of_the_interval(
    low: float, high: float, verdict: str, family: int
) -> None:
    assert judge_claim(measured(low, high, family), 1.0, family) == verdict
    assert judge_claim(measured(3 * low, 3 * high, family), 3.0, family) == verdict
    assert judge_claim(measured(low, high, family, seeds=4), 1.0, family) is ClaimVerdict.TOO_FEW


GAINS = {ClaimVerdict.HALF, ClaimVerdict.SMALLER, ClaimVerdict.GAIN}
OPPOSITES = [
    (GAINS, {ClaimVerdict.LOSS}),
    ({ClaimVerdict.HALF}, {ClaimVerdict.NONE, ClaimVerdict.LOSS}),
]
bounds = st.floats(-3, 3).map(lambda x: round(x, 3))


@settings(max_examples=300)
@given(bounds, bounds, st.floats(0, 1), st.floats(0, 1))
def test_a_narrower_interval_inside_another_never_says_the_opposite(a: float, b: float, x: float, y: float) -> None:
    low, high = min(a, b), max(a, b)
    assume(high - low > 1e-2)
    inner_low = low + min(x, y) * (high - low)
    inner_high = low + max(x, y) * (high - low)
    assume(inner_high - inner_low > 1e-3)
    ends = itertools.product((low, high, inner_low, inner_high), (0, 0.5, 1))
    assume(all(abs(abs(end) - edge) > 1e-6 for end, edge in ends))  # `measured` rounds
    outer, inner = (judge_claim(measured(*ends), 1.0, 1) for ends in ((low, high), (inner_low, inner_high)))
    for one, other in OPPOSITES:
        assert not (outer in one and inner in other)
        # Equality rests on a narrower interval (TOST), so the wider one may reach a little beyond the margin.
        assert not (outer in other and inner in one and high < 0.5)
    if outer is ClaimVerdict.HALF:
        assert inner is ClaimVerdict.HALF
    if outer in GAINS:
        assert inner in GAINS
    if outer is ClaimVerdict.LOSS:
        assert inner in (ClaimVerdict.LOSS, ClaimVerdict.NONE)
    (was, _), (now, _) = (judge(measured(*ends), 1, 0.5) for ends in ((low, high), (inner_low, inner_high)))
    if was in (Verdict.BETTER, Verdict.WORSE):
        assert now is was
    if was is Verdict.EQUAL and max(-low, high) < 0.5:
        assert now is not Verdict.UNDECIDED


@settings(max_examples=200)
@given(st.floats(0.01, 2), st.floats(-3, 3), st.floats(0, 3))
def test_a_larger_estimate_never_says_less(error: float, mean: float, more: float) -> None:
    order = [
        {ClaimVerdict.LOSS},
        {ClaimVerdict.NONE, ClaimVerdict.EXCLUDED, ClaimVerdict.INCONCLUSIVE},
        {ClaimVerdict.SMALLER, ClaimVerdict.GAIN},
        {ClaimVerdict.HALF},
    ]
    ranks = [
        next(i for i, words in enumerate(order) if judge_claim(Difference(m, error, 9.0, (10,)), 1.0, 4) in words)
        for m in (mean, mean + more)
    ]
    if ranks[0] == 1 and ranks[1] == 0:  # a small loss that is practically none
        assert mean < 0
    else:
        assert ranks[0] <= ranks[1]


def power_of_the_t_test(n: int, spread: float, size: float, alpha: float) -> float:
    limit, shift = stats.t.ppf(1 - alpha / 2, n - 1), size / spread * math.sqrt(n)
    return float(stats.nct.sf(limit, n - 1, shift) + stats.nct.cdf(-limit, n - 1, shift))


def power_of_equivalence(n: int, spread: float, margin: float, alpha: float) -> float:
    """Return P(both one-sided tests reject) where there is no difference, over the distribution of the sample variance."""
    error, limit = spread / math.sqrt(n), stats.t.ppf(1 - alpha, n - 1)

    def weighted(ratio: float) -> float:
        inside = max(0.0, margin / error - limit * math.sqrt(ratio / (n - 1)))
        return float((2 * stats.norm.cdf(inside) - 1) * stats.chi2.pdf(ratio, n - 1))

    end = (margin / error / limit) ** 2 * (n - 1)
    middle = min(end, n - 1.0)
    return float(sum(integrate.quad(weighted, a, b)[0] for a, b in ((0.0, middle), (middle, min(end, 10 * n)))))


@pytest.mark.parametrize(("spread", "size", "family"), [(1.0, 1.0, 4), (1.0, 1.0, 1), (0.5, 1.0, 4), (3.0, 1.0, 1)])
def test_seeds_reach_the_power_of_four_in_five(spread: float, size: float, family: int) -> None:
    alpha, seen = 0.05 / family, 6
    difference = Difference(0.1, spread / math.sqrt(seen), seen - 1.0, (seen,))
    for found, power in (
        (seeds_to_see(difference, size, family), power_of_the_t_test),
        (seeds_to_equate(difference, size, family), power_of_equivalence),
    ):
        expected = next(n for n in itertools.count(5) if power(n, spread, size, alpha) >= 0.8)
        assert found is not None
        assert found.seeds == pytest.approx(expected, abs=max(2, expected / 4))
        # 80% of the spreads that would give the one seen lie between these
        for end, q in ((found.low, 0.9), (found.high, 0.1)):
            true = spread * math.sqrt((seen - 1) / stats.chi2.ppf(q, seen - 1))
            assert end == pytest.approx(
                next(n for n in itertools.count(5) if power(n, true, size, alpha) >= 0.8), abs=max(3, end / 4)
            )


@pytest.mark.parametrize("family", [1, 4])
def test_the_visible_difference_has_the_power_of_four_in_five(family: int) -> None:
    difference = Difference(0.1, 1.0 / math.sqrt(6), 5.0, (6,))
    for n in (5, 8, 20):
        size = visible(difference, n, family)
        assert size is not None
        assert power_of_the_t_test(n, 1.0, size, 0.05 / family) == pytest.approx(0.8, abs=0.06)
    found = seeds_to_see(difference, 1.0, family)
    assert found is not None
    assert found.seeds is not None
    assert (visible(difference, found.seeds, family) or 9) <= 1.0 < (visible(difference, found.seeds - 1, family) or 0)


def test_no_feasible_number_of_seeds() -> None:
    found = seeds_to_see(Difference(1.0, 1.0, 4.0, (5,)), 1e-6, 4)
    assert found is not None
    assert (found.seeds, found.low, found.high) == (None, None, None)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 2), st.integers(2, 20), st.floats(0.3, 3))
def test_a_harder_question_never_needs_fewer_seeds(error: float, seen: int, size: float) -> None:
    def needed(error: float, size: float, family: int) -> float:
        found = seeds_to_see(Difference(0.0, error, seen - 1.0, (seen,)), size, family)
        return math.inf if found is None or found.seeds is None else found.seeds

    assert 5 <= needed(error, size, 2) <= needed(2 * error, size, 2)
    assert needed(error, size, 2) <= needed(error, size / 2, 2)
    assert needed(error, size, 2) <= needed(error, size, 4)


def test_heterogeneity_is_welchs_f_test() -> None:
    tasks = [normal(5, 1), 2 * normal(7, 2), normal(6, 3, 2.0)]
    expected = stats.f_oneway(*tasks, equal_var=False).pvalue
    assert heterogeneity_p([by_seed(task) for task in tasks]) == pytest.approx(expected)
    two = stats.ttest_ind(tasks[0], tasks[1], equal_var=False).pvalue  # for two tasks it is Welch's t test
    assert heterogeneity_p([by_seed(task) for task in tasks[:2]]) == pytest.approx(two)
    assert heterogeneity_p([by_seed(tasks[0])]) is None
    assert heterogeneity_p([by_seed(tasks[0]), by_seed([1.0, 1.0])]) is None
    assert heterogeneity_p([*map(by_seed, tasks), by_seed([0.0] * 5)]) == pytest.approx(expected), "a ceiling"


def test_outliers_are_beyond_five_deviations() -> None:
    values = [0.1, -0.2, 0.3, 0.0, -31.0]
    assert outliers(values) == [4]
    mad = stats.median_abs_deviation(values, scale="normal")
    assert outliers([0.1, -0.2, 0.3, 0.0, 0.05 + 4.9 * mad]) == []
    assert outliers([0.0] * 4 + [0.3]) == [], "no deviation to compare with"
    assert outliers([0.0] * 4 + [3.0], floor=0.4) == [4]
