"""GLUE's metrics as pure functions of (n,) predictions and references, on their raw scale."""

import logging
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

log = logging.getLogger(__name__)


def accuracy(predictions: ArrayLike, references: ArrayLike) -> float:
    """Return the share of equal entries, 0 to 1."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def f1(predictions: ArrayLike, references: ArrayLike) -> float:
    """Return the F1 of class 1 against class 0, 0 to 1; 0 if class 1 is never predicted or never right."""
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, pos_label=1, average="binary", zero_division=0.0))


def matthews(predictions: ArrayLike, references: ArrayLike) -> float:
    """Return Matthews' correlation coefficient, -1 to 1; 0 if one side is constant (scikit-learn's convention)."""
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # both sides are constant: scikit-learn returns 0
        return float(matthews_corrcoef(references, predictions))


def pearson(predictions: ArrayLike, references: ArrayLike) -> float:
    """Return Pearson's correlation, -1 to 1; 0 where it is undefined (a constant side, fewer than two entries)."""
    from scipy.stats import pearsonr

    return _correlation("pearson", pearsonr, predictions, references)


def spearman(predictions: ArrayLike, references: ArrayLike) -> float:
    """Return Spearman's rank correlation, -1 to 1; 0 where it is undefined (a constant side, fewer than two entries)."""
    from scipy.stats import spearmanr

    return _correlation("spearman", spearmanr, predictions, references)


def _correlation(name: str, function: Any, predictions: ArrayLike, references: ArrayLike) -> float:
    x, y = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if broken := np.count_nonzero(~np.isfinite(x)):
        raise FloatingPointError(f"{broken} of {len(x)} predictions are not finite")
    # Constant predictions do not follow the references at all, which is a correlation of 0; a record cannot hold NaN.
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        log.warning("%s is undefined for constant or single values: recorded as 0", name)
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # near-constant input still gives a number
        value = float(function(x, y).statistic)
    return value if np.isfinite(value) else 0.0
