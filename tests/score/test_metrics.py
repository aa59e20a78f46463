"""Metrics against formulas written out by hand, and against scikit-learn and scipy."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from mtlora.config.metrics import METRICS
from mtlora.score.compute import baseline, compute
from mtlora.score.glue import accuracy, f1, matthews, pearson, spearman

pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60).map(
    lambda rows: tuple(np.array(column) for column in zip(*rows, strict=True))
)
scores = st.integers(-50, 50).map(lambda n: n / 10)
score_pairs = st.lists(st.tuples(scores, scores), min_size=2, max_size=60).map(
    lambda rows: tuple(np.array(column) for column in zip(*rows, strict=True))
)


def confusion(predictions: np.ndarray, references: np.ndarray) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives."""
    rows = list(zip(predictions.tolist(), references.tolist(), strict=True))
    return rows.count((1, 1)), rows.count((1, 0)), rows.count((0, 1)), rows.count((0, 0))


@given(pairs)
def test_classification_formulas(columns: tuple[np.ndarray, np.ndarray]) -> None:
    predictions, references = columns
    tp, fp, fn, tn = confusion(predictions, references)
    assert accuracy(predictions, references) == pytest.approx((tp + tn) / len(predictions))
    assert f1(predictions, references) == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0.0)
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    expected = (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0
    assert matthews(predictions, references) == pytest.approx(expected, abs=1e-12)


def pearson_by_hand(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    covariance = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / math.sqrt(math.fsum((a - mean_x) ** 2 for a in x) * math.fsum((b - mean_y) ** 2 for b in y))


def ranks(values: list[float]) -> list[float]:
    """Ranks from 1, tied values share the mean of theirs."""
    return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]


@given(score_pairs)
def test_correlation_formulas(columns: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = (column.tolist() for column in columns)
    defined = len(set(x)) > 1 and len(set(y)) > 1
    assert pearson(*columns) == pytest.approx(pearson_by_hand(x, y) if defined else 0.0, abs=1e-9)
    assert spearman(*columns) == pytest.approx(pearson_by_hand(ranks(x), ranks(y)) if defined else 0.0, abs=1e-9)


def test_small_cases_by_hand() -> None:
    # tp 1, fp 1, fn 1, tn 2: F1 = 2 / 4, MCC = (1 * 2 - 1 * 1) / sqrt(2 * 2 * 3 * 3)
    predictions, references = np.array([1, 1, 0, 0, 0]), np.array([1, 0, 1, 0, 0])
    assert accuracy(predictions, references) == pytest.approx(0.6)
    assert f1(predictions, references) == pytest.approx(0.5)
    assert matthews(predictions, references) == pytest.approx(1 / 6)
    assert spearman(np.array([1, 2, 3, 4]), np.array([1, 8, 27, 99])) == pytest.approx(1.0)
    assert pearson(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])) == pytest.approx(0.5)


def test_compute_goes_through_evaluate_and_agrees_with_the_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtlora.score.metric import FUNCTIONS, Metric

    rng = np.random.default_rng(0)
    references = rng.integers(0, 2, size=500)
    predictions = np.where(rng.random(500) < 0.3, 1 - references, references)
    seen: list[tuple[str, str, bool]] = []
    original = Metric._compute

    def spy(self: Metric, **columns: object) -> dict[str, float]:
        seen.append((self.config_name, self.experiment_id, self.keep_in_memory))
        return original(self, **columns)

    monkeypatch.setattr(Metric, "_compute", spy)
    assert compute(["accuracy", "f1", "matthews"], predictions, references, "run-1") == {
        "accuracy": pytest.approx(sklearn.metrics.accuracy_score(references, predictions)),
        "f1": pytest.approx(sklearn.metrics.f1_score(references, predictions)),
        "matthews": pytest.approx(sklearn.metrics.matthews_corrcoef(references, predictions)),
    }
    assert seen == [(name, "run-1", True) for name in ("accuracy", "f1", "matthews")]
    truth = (rng.integers(0, 26, size=500) / 5).astype(np.float32)
    noisy = (truth + rng.normal(size=500)).astype(np.float32)
    found = compute(["pearson", "spearman"], noisy, truth, "run-2")
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(noisy.astype(float), truth.astype(float)).statistic)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(noisy, truth).statistic)
    assert set(FUNCTIONS) == set(METRICS) - {"loss"}  # which training computes
    assert all(type(value) is float for value in found.values())


def test_three_classes() -> None:
    assert compute(["accuracy"], np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]), "run") == {"accuracy": 0.75}


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_answers(constant: int, caplog: pytest.LogCaptureFixture) -> None:
    references = np.array([0, 1, 1, 0, 1])
    answers = np.full(5, constant)
    found = compute(["matthews", "f1"], answers, references, "run")
    assert found == {"matthews": 0.0, "f1": pytest.approx(0.75 if constant else 0.0)}
    with caplog.at_level(logging.WARNING):
        found = compute(["pearson", "spearman"], answers.astype(np.float32), references.astype(np.float32), "run")
    assert found == {"pearson": 0.0, "spearman": 0.0}
    assert [message.split()[0] for message in caplog.messages] == ["pearson", "spearman"]


def test_broken_answers_are_no_score() -> None:
    references = np.array([1.0, 2.0, 3.0])
    for name in ("pearson", "spearman"):
        for bad in (math.nan, math.inf):
            with pytest.raises(FloatingPointError, match="1 of 3 predictions are not finite"):
                compute([name], np.array([1.0, bad, 2.0]), references, "run")


def test_baseline() -> None:
    mostly_one, mostly_zero = np.array([1, 1, 0, 1]), np.array([0, 0, 1])
    assert baseline("accuracy", mostly_one) == 0.75
    assert baseline("accuracy", np.array([2, 2, 0, 1])) == 0.5
    assert baseline("f1", mostly_one) == pytest.approx(sklearn.metrics.f1_score(mostly_one, np.ones(4, dtype=int)))
    assert baseline("f1", mostly_zero) == 0.0
    assert [baseline(name, mostly_one) for name in ("matthews", "pearson", "spearman")] == [0.0, 0.0, 0.0]
