"""Paired statistics against scipy, exact enumeration and formulas written out by hand."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from mtlora.tables import statistics
from mtlora.tables.statistics import (
    EXACT_PAIRS,
    FLIPS,
    Difference,
    attainable_p,
    direction,
    holm,
    judge_claim,
    median_interval,
    paired_difference,
    pairs_needed,
    seeds_to_decide,
    sign_flip_p,
)

terms = st.lists(st.integers(-30, 30), min_size=1, max_size=9)
differences = st.integers(-10_000, 10_000).map(lambda k: k / 1000)
p_values = st.lists(st.integers(0, 1000).map(lambda k: k / 1000), max_size=8)


def normal(n: int, seed: int = 0, mean: float = 0.4) -> np.ndarray:
    return np.random.default_rng([seed, n]).normal(mean, 1.0, n)


def exact_p(values: Sequence[int]) -> Fraction:
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    return Fraction(sum(abs(total) >= abs(sum(values)) for total in sums), len(sums))


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13, 30])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_one_group_is_the_paired_t_test(n: int, level: float) -> None:
    ours, theirs = normal(n, 1, 80.0), normal(n, 2, 79.5)
    found, expected = paired_difference([ours - theirs]), stats.ttest_rel(ours, theirs)
    assert found.mean == pytest.approx(ours.mean() - theirs.mean())
    assert (found.sizes, found.pairs) == ((n,), n)
    assert found.dof == pytest.approx(n - 1)
    assert found.error == pytest.approx(stats.sem(ours - theirs))
    assert found.interval(level) == pytest.approx(tuple(expected.confidence_interval(level)))


def test_the_interval_is_the_95_percent_one_unless_told_otherwise() -> None:
    found = paired_difference([normal(6)])
    assert found.interval() == found.interval(0.95)


@pytest.mark.parametrize("n", range(2, 12))
def test_sign_flips_are_scipys_exact_paired_permutation_test(n: int) -> None:
    values = normal(n, 3)
    expected = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=math.inf)
    assert sign_flip_p(values) == pytest.approx(expected.pvalue)
    assert paired_difference([values]).p == pytest.approx(expected.pvalue)


@given(terms)
def test_sign_flips_with_ties_and_zeros_by_enumeration(values: list[int]) -> None:
    assert sign_flip_p(np.array(values, dtype=float)) == float(exact_p(values))


@given(terms)
def test_equal_sums_of_decimal_fractions_are_ties(values: list[int]) -> None:
    assert sign_flip_p(np.array(values) * 0.1) == float(exact_p(values))


def test_a_sum_of_zero_is_no_evidence() -> None:
    assert sign_flip_p(np.zeros(5)) == 1.0
    assert sign_flip_p(np.array([0.1, 0.2, -0.3])) == 1.0
    assert sign_flip_p(np.zeros(25)) == 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(differences, min_size=1, max_size=20), st.floats(0.01, 100))
def test_p_does_not_depend_on_the_common_sign_or_the_scale(values: list[float], scale: float) -> None:
    array = np.array(values)
    assert sign_flip_p(-array) == sign_flip_p(array)
    assert sign_flip_p(scale * array) == sign_flip_p(array)


@given(st.lists(differences, min_size=1, max_size=8).flatmap(lambda v: st.tuples(st.just(v), st.permutations(v))))
def test_p_does_not_depend_on_the_order_of_pairs(both: tuple[list[float], list[float]]) -> None:
    assert sign_flip_p(np.array(both[0])) == sign_flip_p(np.array(both[1]))


@pytest.mark.parametrize(("n", "losses"), [(EXACT_PAIRS, 3), (EXACT_PAIRS + 1, 4), (20, 5), (40, 14)])
def test_equal_sizes_give_the_sign_test(n: int, losses: int) -> None:
    p = sign_flip_p(np.array([-1.0] * losses + [1.0] * (n - losses)))
    expected = 2 * stats.binom.cdf(losses, n, 0.5)
    if n <= EXACT_PAIRS:
        assert p == pytest.approx(expected, rel=1e-12)
    else:
        assert p == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / FLIPS))


@pytest.mark.parametrize(("n", "mean"), [(17, 0.0), (17, 0.6), (25, 0.4), (40, 0.3)])
def test_many_pairs_agree_with_a_large_random_permutation_test(n: int, mean: float) -> None:
    values, resamples = normal(n, 4, mean), 50_000
    random = np.random.default_rng(1)
    expected = stats.permutation_test(
        (values,), np.mean, vectorized=True, permutation_type="samples", n_resamples=resamples, batch=5000, rng=random
    ).pvalue
    noise = math.sqrt(expected * (1 - expected) * (1 / FLIPS + 2 / resamples))
    assert sign_flip_p(values) == pytest.approx(expected, abs=4 * noise + 2 / FLIPS)


def test_random_flips_are_the_same_every_time_and_never_give_zero() -> None:
    values = normal(30, 5, 0.3)
    before = sign_flip_p(values)
    statistics.random_signs.cache_clear()
    np.random.default_rng().normal(size=10)
    assert sign_flip_p(values) == before
    assert sign_flip_p(np.ones(60)) == 1 / (FLIPS + 1)


def test_two_groups_of_opposite_weight_are_welchs_test() -> None:
    one, other = normal(5, 6), 3 * normal(9, 7)
    found, expected = paired_difference([one, other], [1.0, -1.0]), stats.ttest_ind(one, other, equal_var=False)
    assert found.mean == pytest.approx(one.mean() - other.mean())
    assert found.dof == pytest.approx(expected.df)
    assert found.mean / (found.error or math.nan) == pytest.approx(expected.statistic)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.sizes == (5, 9)


def test_groups_with_weights_by_hand() -> None:
    # means 2, 1, -1; variances 1, 8, 2; shares of the variance 1/4 * 1/3 = 1/12, 1/16 * 8/2 = 1/4, 1/16 * 2/2 = 1/16
    groups = [np.array([1.0, 2.0, 3.0]), np.array([-1.0, 3.0]), np.array([-2.0, 0.0])]
    found = paired_difference(groups, [0.5, 0.25, 0.25])
    parts = [Fraction(1, 12), Fraction(1, 4), Fraction(1, 16)]
    dof = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 + parts[2] ** 2)
    assert found.mean == pytest.approx(1.0)
    assert found.error == pytest.approx(math.sqrt(sum(parts)))
    assert found.dof == pytest.approx(float(dof))
    half = stats.t.ppf(0.975, float(dof)) * math.sqrt(sum(parts))
    assert found.interval() == pytest.approx((1 - half, 1 + half))
    assert (found.sizes, found.pairs, found.attainable_p) == ((3, 2, 2), 7, 2**-6)
    # what each pair adds to the mean, times 48: 0.5 / 3 is 8, 0.25 / 2 is 6
    assert found.p == float(exact_p([8, 16, 24, -6, 18, -12, 0]))


def test_equal_groups_of_equal_weight_have_the_mean_of_the_group_means() -> None:
    groups = [normal(n, 8) for n in (3, 6, 4)]
    found = paired_difference(groups, [1 / 3] * 3)
    assert found.mean == pytest.approx(np.mean([group.mean() for group in groups]))
    assert found.error == pytest.approx(math.sqrt(sum(stats.sem(group) ** 2 for group in groups)) / 3)


def test_every_group_needs_a_weight() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_difference([normal(3), normal(3)], [1.0])


@pytest.mark.parametrize("groups", [[[0.5]], [[1.0, 2.0, 1.5], [0.5]]])
def test_a_group_with_a_single_pair_gives_no_interval(groups: list[list[float]]) -> None:
    share = 1 / len(groups)
    found = paired_difference([np.array(group) for group in groups], [share] * len(groups))
    assert (found.error, found.dof, found.interval()) == (None, None, None)
    assert found.mean == pytest.approx(np.mean([np.mean(group) for group in groups]))
    assert found.p == 2.0 ** (1 - sum(map(len, groups)))  # all of one sign
    assert found.equivalence_p(1000.0) == 1.0
    assert direction(found, 0.0) == 0


def test_without_any_spread_the_interval_is_a_point() -> None:
    found = paired_difference([np.full(6, 0.25), np.full(4, 0.75)], [0.5, 0.5])
    assert (found.error, found.interval()) == (0.0, (0.5, 0.5))
    assert found.p == 2**-9
    assert (found.equivalence_p(0.6), found.equivalence_p(0.5), found.equivalence_p(0.4)) == (0.0, 1.0, 1.0)
    assert direction(found, 0.01) == 1
    nothing = paired_difference([np.zeros(4)])
    assert (nothing.interval(), nothing.p, direction(nothing, 0.0)) == ((0.0, 0.0), 1.0, 0)


@pytest.mark.parametrize("right", [(180, 180), (200, 212)])
def test_two_seeds_that_differ_by_the_same_answer_do_not_prove_equality(right: tuple[int, int]) -> None:
    answers = np.array(right)  # of RTE's 277; in floats the second two differences are not quite equal
    gains = (answers + 1) / 277 * 100 - answers / 277 * 100
    assert paired_difference([gains]).equivalence_p(0.5) == 1.0
    assert paired_difference([np.repeat(gains, 3)]).equivalence_p(0.5) == pytest.approx(0.0, abs=1e-9)


def test_a_group_without_spread_adds_neither_error_nor_degrees_of_freedom() -> None:
    spread = normal(5, 9)
    found = paired_difference([spread, np.full(50, 2.0)], [0.5, 0.5])
    low, high = stats.ttest_1samp(spread, 0).confidence_interval(0.95)
    assert found.dof == pytest.approx(4)
    assert found.interval() == pytest.approx((1 + low / 2, 1 + high / 2))


def test_smallest_p_that_some_pairs_permit() -> None:
    assert attainable_p(5) == 0.0625
    assert [attainable_p(n) for n in (1, 2, 8)] == [1.0, 0.5, 1 / 128]
    for n in range(1, 12):
        assert attainable_p(n) == float(exact_p([1] * n))
    for n in (EXACT_PAIRS, EXACT_PAIRS + 1, EXACT_PAIRS + 2, 60):
        assert attainable_p(n) <= sign_flip_p(np.ones(n)) <= attainable_p(n) + 4 / FLIPS
    assert attainable_p(60) == 1 / (FLIPS + 1)


@given(st.lists(differences, min_size=1, max_size=10))
def test_no_differences_get_below_the_attainable_p(values: list[float]) -> None:
    assert sign_flip_p(np.array(values)) >= attainable_p(len(values))


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.25])
def test_pairs_needed_by_trying_every_number(alpha: float) -> None:
    for comparisons in range(1, 101):
        tried = (n for n in itertools.count(1) if comparisons * Fraction(2, 2**n) <= Fraction(alpha))
        assert pairs_needed(comparisons, alpha) == next(tried)


def test_pairs_needed_for_one_structure_and_for_four() -> None:
    assert (pairs_needed(1), pairs_needed(4)) == (6, 8)
    for n, significant in ((7, False), (8, True)):
        assert (holm([sign_flip_p(np.ones(n)), 1.0, 1.0, 1.0])[0] <= 0.05) is significant


@pytest.mark.parametrize(
    ("p", "comparisons", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], None, [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.02, 0.02], None, [0.06, 0.06, 0.06]),
        ([0.02, 0.01, 0.02], None, [0.04, 0.03, 0.04]),
        ([0.03, 0.01], 4, [0.09, 0.04]),
        ([0.03, 0.01], 1, [0.03, 0.02]),
        ([0.4, 0.6, 0.01], None, [0.8, 0.8, 0.03]),
        ([0.5, 0.6], 4, [1.0, 1.0]),
        ([0.05], None, [0.05]),
        ([], 4, []),
    ],
)
def test_holm_by_hand(p: list[float], comparisons: int | None, adjusted: list[float]) -> None:
    assert holm(p, comparisons) == pytest.approx(adjusted)


@given(p_values)
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    for (one, a), (other, b) in itertools.product(zip(p, adjusted, strict=True), repeat=2):
        assert one <= a <= min(1.0, len(p) * one)
        assert a <= b or one > other


@given(p_values, st.integers(0, 4))
def test_a_comparison_without_a_result_counts_like_a_p_of_one(p: list[float], missing: int) -> None:
    assert holm(p, len(p) + missing) == holm([*p, *[1.0] * missing])[: len(p)]


@given(p_values, st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], alpha: float) -> None:
    steps = enumerate(sorted(p))
    rejected = len(list(itertools.takewhile(lambda step: (len(p) - step[0]) * step[1] <= alpha, steps)))
    assert sum(a <= alpha for a in holm(p)) == rejected


def coverage_between(n: int, rank: int) -> Fraction:
    """Return P(the median lies between the rank-th smallest and the rank-th largest of n values)."""
    return Fraction(sum(math.comb(n, below) for below in range(rank, n - rank + 1)), 2**n)


@pytest.mark.parametrize("n", [*range(1, 13), 25, 50])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_median_interval_is_the_narrowest_of_sufficient_coverage(n: int, level: float) -> None:
    values = np.random.default_rng(n).permutation(n) + 1.0  # the value is its rank
    enough = [rank for rank in range(1, n // 2 + 1) if coverage_between(n, rank) >= level]
    rank = max(enough, default=1)
    low, high, coverage = median_interval(values, level)
    assert (low, high) == (rank, n + 1 - rank)
    assert coverage == pytest.approx(float(coverage_between(n, rank)) if n > 1 else 0.0)


def test_median_interval_of_five_values() -> None:
    assert median_interval(np.array([3.0, -1.0, 2.0, 7.0, 0.0])) == (-1.0, 7.0, 0.9375)
    assert median_interval(np.array([3.0])) == (3.0, 3.0, 0.0)


def measured(mean: float, error: float | None = 0.2) -> Difference:
    """Return a difference whose 95% interval is its mean -+ 2.262 standard errors."""
    return Difference(mean, error, None if error is None else 9.0, (10,), 0.002)


@pytest.mark.parametrize(
    ("difference", "claim", "p_holm", "equivalence_p_holm", "verdict"),
    [
        (measured(1.0), 1.0, 0.01, 0.9, "reproduced"),
        (measured(1.0), 0.1, 0.01, 0.9, "reproduced"),
        (measured(1.0), 1.45, 0.05, 0.9, "reproduced"),  # the interval ends at 1.4524
        (measured(1.0), 1.46, 0.05, 0.9, "smaller than claimed"),
        (measured(0.2, 0.05), 1.0, 0.01, 0.001, "smaller than claimed"),  # though within half of the claim
        (measured(0.5, 0.0), 0.5, 0.01, 1.0, "reproduced"),
        (measured(-1.0), 1.0, 0.05, 1.0, "contradicted"),
        (measured(0.05), 2.0, 0.9, 0.05, "contradicted"),
        (measured(-0.05), 2.0, 0.9, 0.01, "contradicted"),
        (measured(0.05), 2.0, 0.9, 0.051, "inconclusive"),
        (measured(1.0), 1.0, 0.051, 0.9, "inconclusive"),
        (measured(-1.0), 1.0, 0.051, 1.0, "inconclusive"),
        (measured(0.5, 0.05), 2.0, 0.0625, 0.01, "contradicted"),  # no sign, but within half of the claim
        (measured(0.45), 1.0, 0.01, 0.4, "inconclusive"),  # the interval starts at -0.0024
        (measured(-0.45), 1.0, 0.01, 0.4, "inconclusive"),
        (measured(5.0, None), 1.0, 0.01, 1.0, "inconclusive"),
        (measured(-5.0, None), 1.0, 0.01, 1.0, "inconclusive"),
    ],
)
def test_verdict_on_a_claim(
    difference: Difference, claim: float, p_holm: float, equivalence_p_holm: float, verdict: str
) -> None:
    assert judge_claim(difference, claim, p_holm, equivalence_p_holm) == verdict


@pytest.mark.parametrize(
    ("mean", "p_holm", "sign"),
    [(0.46, 0.05, 1), (0.45, 0.001, 0), (-0.46, 0.05, -1), (-0.45, 0.001, 0), (0.46, 0.0501, 0), (-9.0, 0.0625, 0)],
)
def test_a_sign_needs_the_interval_and_the_corrected_test(mean: float, p_holm: float, sign: int) -> None:
    assert direction(measured(mean), p_holm) == sign


def test_five_seeds_never_decide_a_sign() -> None:
    found = paired_difference([np.array([4.0, 4.1, 3.9, 4.05, 4.0])])
    interval = found.interval()
    assert interval is not None
    assert interval[0] > 3.8
    assert direction(found, holm([found.p])[0]) == 0


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0, 3.0])
def test_equivalence_is_two_one_sided_t_tests(margin: float) -> None:
    for mean in (-0.3, 0.0, 0.6):
        values = normal(8, 10, mean)
        above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(values, margin, alternative="less").pvalue
        assert paired_difference([values]).equivalence_p(margin) == pytest.approx(max(above, below))


@given(st.floats(-3, 3), st.floats(0.01, 2), st.floats(1, 60), st.floats(0.05, 3), st.floats(0.01, 0.4))
def test_equivalence_is_significant_exactly_where_the_interval_lies_inside_the_margin(
    mean: float, error: float, dof: float, margin: float, alpha: float
) -> None:
    difference = Difference(mean, error, dof, (5,), 0.5)
    half = stats.t.ppf(1 - alpha, dof) * error
    assume(abs(abs(mean) + half - margin) > 1e-6)
    low, high = difference.interval(1 - 2 * alpha) or (math.nan, math.nan)
    assert (difference.equivalence_p(margin) <= alpha) is (-margin < low and high < margin)


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


@pytest.mark.parametrize(
    ("spread", "claim", "comparisons"), [(1.0, 1.0, 4), (1.0, 1.0, 1), (0.5, 1.0, 4), (0.2, 1.0, 4), (3.0, 1.0, 1)]
)
def test_seeds_to_decide_reach_the_power_of_four_in_five(spread: float, claim: float, comparisons: int) -> None:
    alpha, seen = 0.05 / comparisons, 6
    expected = next(
        n
        for n in itertools.count(max(2, pairs_needed(comparisons)))
        if power_of_the_t_test(n, spread, claim, alpha) >= 0.8
        and power_of_equivalence(n, spread, claim / 2, alpha) >= 0.8
    )
    found = seeds_to_decide(Difference(0.1, spread / math.sqrt(seen), seen - 1.0, (seen,), 0.5), claim, comparisons)
    assert found == pytest.approx(expected, abs=max(2, expected / 4))


def test_seeds_to_decide_for_several_tasks_count_every_task() -> None:
    seen, groups = 5, 8
    error = 0.5 / math.sqrt(seen * groups)
    difference = Difference(0.1, error, groups * (seen - 1.0), (seen,) * groups, 0.5)
    alpha = 0.05 / 4
    expected = next(
        n
        for n in itertools.count(2)
        if power_of_the_t_test(groups * n, 0.5, 1.0, alpha) >= 0.8
        and power_of_equivalence(groups * n, 0.5, 0.5, alpha) >= 0.8
    )
    assert seeds_to_decide(difference, 1.0, 4) == pytest.approx(expected, abs=2)


def test_however_small_the_spread_the_sign_flip_test_needs_its_pairs() -> None:
    assert seeds_to_decide(Difference(1.0, 0.0, 4.0, (5,), 0.0625), 1.0, 4) == pairs_needed(4)
    assert seeds_to_decide(Difference(1.0, 1e-9, 8.0, (5, 5), 0.002), 1.0, 4) == pairs_needed(4) // 2
    assert seeds_to_decide(Difference(1.0, 0.0, 32.0, (5,) * 8, 0.001), 1.0, 4) == 2, "one seed has no interval"


@pytest.mark.parametrize(
    ("difference", "claim"),
    [
        (Difference(1.0, None, None, (1,), 1.0), 1.0),
        (Difference(1.0, None, None, (5, 1), 0.1), 1.0),
        (Difference(1.0, 1.0, 4.0, (5,), 0.0625), 1e-6),
        (Difference(1.0, 1.0, 4.0, (5,), 0.0625), 0.0),
    ],
)
def test_no_number_of_seeds_is_known(difference: Difference, claim: float) -> None:
    assert seeds_to_decide(difference, claim, 4) is None


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 2), st.integers(2, 20), st.floats(0.3, 3))
def test_a_harder_question_never_needs_fewer_seeds(error: float, seen: int, claim: float) -> None:
    def needed(error: float, claim: float, comparisons: int) -> float:
        found = seeds_to_decide(Difference(0.0, error, seen - 1.0, (seen,), 1.0), claim, comparisons)
        return math.inf if found is None else found

    assert 2 <= needed(error, claim, 2) <= needed(2 * error, claim, 2)
    assert needed(error, claim, 2) <= needed(error, claim / 2, 2)
    assert needed(error, claim, 2) <= needed(error, claim, 4)
