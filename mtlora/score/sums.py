"""Metrics as functions of sums over test items, so that a resample of the items needs no new scoring."""

from collections.abc import Callable, Sequence

import numpy as np

from mtlora.score.text import bleu_metric, reference_streams

Score = Callable[[np.ndarray, int], np.ndarray]  # sums over items (..., k) and the number of items -> scores (...)


def item_counts(metric: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return what each of n answers x with the label y adds to a metric's sums, (n, k)."""
    if metric == "accuracy":
        return (x == y).astype(float)[:, None]
    if metric == "pearson":
        return np.stack([x, y, x * x, y * y, x * y], axis=1)
    return np.stack([x * y, x * (1 - y), (1 - x) * y, (1 - x) * (1 - y)], axis=1)  # positives, then negatives


def bleu_counts(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return sacrebleu's sufficient statistics of each text, (n, 10)."""
    metric = bleu_metric()
    return np.array(metric._extract_corpus_statistics(list(texts), reference_streams(references)), dtype=float)


def _matthews(sums: np.ndarray, n: int) -> np.ndarray:
    tp, fp, fn, tn = np.moveaxis(sums, -1, 0)
    square = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return np.where(square > 0, (tp * tn - fp * fn) / np.sqrt(np.where(square > 0, square, 1)), 0.0)


def _f1(sums: np.ndarray, n: int) -> np.ndarray:
    tp, fp, fn, _ = np.moveaxis(sums, -1, 0)
    return 2 * tp / np.maximum(2 * tp + fp + fn, 1)


def _pearson(sums: np.ndarray, n: int) -> np.ndarray:
    x, y, xx, yy, xy = np.moveaxis(sums / n, -1, 0)
    square = (xx - x * x) * (yy - y * y)
    return np.where(square > 0, (xy - x * y) / np.sqrt(np.where(square > 0, square, 1)), 0.0)


def _bleu(sums: np.ndarray, n: int) -> np.ndarray:
    metric = bleu_metric()
    flat = sums.reshape(-1, sums.shape[-1]).tolist()
    return np.array([metric._compute_score_from_stats(counts).score for counts in flat]).reshape(sums.shape[:-1])


SCORES: dict[str, Score] = {
    "accuracy": lambda sums, n: sums[..., 0] / n,
    "matthews": _matthews,
    "f1": _f1,
    "pearson": _pearson,
    "bleu": _bleu,
}
