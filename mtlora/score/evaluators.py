"""The metrics as `evaluate.Metric` classes. Import this only to score: `evaluate` takes seconds to load."""

import tempfile
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

from mtlora.score import glue


class GlueMetric(evaluate.Metric):
    """Base of the classes below: one number from (n,) predictions and references."""

    function: ClassVar[Any]  # of mtlora.score.glue
    value_type: ClassVar[str] = "int64"  # class indices

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.value_type)
        return evaluate.MetricInfo(
            description=self.function.__doc__,
            citation="GLUE, arXiv 1804.07461",
            inputs_description="predictions and references: sequences of equal length",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {self.name: self.function(np.asarray(predictions), np.asarray(references))}


class Accuracy(GlueMetric):
    """Share of right answers."""

    function = staticmethod(glue.accuracy)


class F1(GlueMetric):
    """F1 of class 1."""

    function = staticmethod(glue.f1)


class Matthews(GlueMetric):
    """Matthews' correlation coefficient."""

    function = staticmethod(glue.matthews)


class Pearson(GlueMetric):
    """Pearson's correlation coefficient."""

    function = staticmethod(glue.pearson)
    value_type = "float64"


class Spearman(GlueMetric):
    """Spearman's rank correlation."""

    function = staticmethod(glue.spearman)
    value_type = "float64"


CLASSES: dict[str, type[GlueMetric]] = {
    "accuracy": Accuracy, "f1": F1, "matthews": Matthews, "pearson": Pearson, "spearman": Spearman,
}  # fmt: skip


def compute(names: list[str], predictions: np.ndarray, references: np.ndarray, experiment_id: str) -> dict[str, float]:
    """Return the named metrics; see `mtlora.score.compute`."""
    values = {}
    with tempfile.TemporaryDirectory() as folder:  # a Metric makes a folder even if it keeps everything in memory
        for name in names:
            metric = CLASSES[name](keep_in_memory=True, cache_dir=folder, experiment_id=experiment_id)
            result = metric.compute(predictions=predictions, references=references)
            values[name] = float(result[metric.name])
    return values
