"""Which metrics exist and how they are read, without any heavy import; `compute` is what the training loop calls."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

METRIC_VERSION = 1  # raise it when a metric's definition changes: old records are then not mixed with new ones


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is read."""

    higher_is_better: bool
    percent: bool  # tables show the raw value times 100


METRICS: dict[str, MetricInfo] = {
    name: MetricInfo(higher_is_better=True, percent=True)
    for name in ("accuracy", "f1", "matthews", "pearson", "spearman")
}


def compute(
    names: list[str], predictions: "np.ndarray", references: "np.ndarray", experiment_id: str
) -> dict[str, float]:
    """Return the named metrics on their raw scale: 0 to 1, correlations and Matthews -1 to 1, always finite.

    Args:
        names: keys of `METRICS`.
        predictions: (n,) class indices, or scores of a regression task.
        references: (n,) of the same kind.
        experiment_id: one per run, so that runs in parallel never share state.

    Raises:
        FloatingPointError: a prediction is not finite.
    """
    from mtlora.metrics import evaluators  # imports `evaluate`, which takes seconds

    return evaluators.compute(names, predictions, references, experiment_id)


def baseline(name: str, references: "np.ndarray") -> float:
    """Return the score of always answering the most frequent class of `references` (n,); 0 for correlations.

    F1 is that of class 1: 0 unless it is the most frequent one. A tie goes to the lower class.
    """
    if name not in ("accuracy", "f1"):
        return 0.0
    import numpy as np

    counts = np.bincount(references)
    majority = int(counts.argmax())
    share = float(counts[majority] / counts.sum())
    if name == "accuracy":
        return share
    return 2 * share / (1 + share) if majority == 1 else 0.0  # precision = share, recall = 1
