"""Which metrics there are and how they are read."""

import math
from dataclasses import dataclass

METRIC_VERSION = 1  # part of a run's identity: raise it when a metric's definition changes


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is read, and the kind of task that it fits."""

    kind: str  # of TaskConfig
    higher_is_better: bool = True
    percent: bool = False  # tables show the raw value times 100
    lowest: float = 0.0
    highest: float = 1.0
    two_classes: bool = False  # defined for two classes only


METRICS: dict[str, MetricInfo] = {
    "accuracy": MetricInfo("classification", percent=True),
    "f1": MetricInfo("classification", percent=True, two_classes=True),
    "matthews": MetricInfo("classification", percent=True, lowest=-1.0),
    "pearson": MetricInfo("regression", percent=True, lowest=-1.0),
    "spearman": MetricInfo("regression", percent=True, lowest=-1.0),
    "bleu": MetricInfo("generation", highest=100.0),
    "nist": MetricInfo("generation", highest=math.inf),
    "meteor": MetricInfo("generation"),
    "ter": MetricInfo("generation", higher_is_better=False, highest=math.inf),
    "rouge_l": MetricInfo("generation"),
    "cider": MetricInfo("generation", highest=math.inf),
}


def metrics_for(kind: str, classes: int) -> list[str]:
    """List the metrics of a task of this kind; `classes` counts its labels, which only a classification task has."""
    return [name for name, info in METRICS.items() if info.kind == kind and (classes == 2 or not info.two_classes)]
