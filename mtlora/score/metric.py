"""Every metric as an `evaluate.Metric`. Import this module only to score: `evaluate` takes seconds to load."""

import tempfile
from collections.abc import Callable
from typing import Any

import evaluate
from datasets import Features, List, Value

from mtlora.score import glue, text

# The function of each metric, and the type of a prediction.
FUNCTIONS: dict[str, tuple[Callable[..., float], str]] = {
    "accuracy": (glue.accuracy, "int64"),
    "f1": (glue.f1, "int64"),
    "matthews": (glue.matthews, "int64"),
    "pearson": (glue.pearson, "float64"),
    "spearman": (glue.spearman, "float64"),
    "bleu": (text.bleu, "string"),
    "nist": (text.nist, "string"),
    "meteor": (text.meteor, "string"),
    "ter": (text.ter, "string"),
    "rouge_l": (text.rouge_l, "string"),
    "cider": (text.cider, "string"),
}


class Metric(evaluate.Metric):
    """The metric that `config_name` names; a text is compared with a list of references."""

    def _info(self) -> evaluate.MetricInfo:
        function, kind = FUNCTIONS[self.config_name]
        value = Value(kind)
        return evaluate.MetricInfo(
            description=function.__doc__,
            citation="GLUE, arXiv 1804.07461; LoRA, arXiv 2106.09685; the E2E NLG challenge, arXiv 1706.09254",
            inputs_description="predictions: n values; references: n values, or n lists of texts",
            features=Features({"predictions": value, "references": List(value) if kind == "string" else value}),
        )

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        function, _ = FUNCTIONS[self.config_name]
        return {self.config_name: float(function(predictions, references, **options))}


def measure(name: str, predictions: Any, references: Any, experiment_id: str, **options: Any) -> float:
    """Return one metric of n predictions; `options` are passed to its function."""
    with tempfile.TemporaryDirectory() as folder:  # a Metric makes a folder even if it keeps everything in memory
        metric = Metric(name, keep_in_memory=True, cache_dir=folder, experiment_id=experiment_id)
        value: float = metric.compute(predictions=predictions, references=references, **options)[name]
        # Without these references to itself the metric is deleted here. Otherwise the garbage collector would run its destructor
        # at any later moment, and a signal that arrives in a destructor is lost.
        for method in ("compute", "add_batch", "add"):
            delattr(metric, method)
    return value
