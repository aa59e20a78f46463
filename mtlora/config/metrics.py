"""The metrics that exist, with the kind of task and the range of each."""

import math
from dataclasses import dataclass

METRIC_VERSION = 1  # part of a run's identity: raise it when a metric's definition changes


@dataclass(frozen=True)
class MetricInfo:
    """The properties of a metric."""

    kind: str  # the `TaskConfig.kind` that it fits
    higher_is_better: bool = True
    scale: float = 1.0  # readers see the raw value times this, where no column says otherwise
    lowest: float = 0.0
    highest: float = 1.0
    two_classes: bool = False  # defined for two classes only
    digits: int = 4  # of a raw value that is shown alone

    def shown(self, value: float) -> str:
        """Write a raw value for readers, on the metric's usual scale."""
        return f"{value * self.scale:.{self.digits if self.scale == 1 else 2}f}"


METRICS: dict[str, MetricInfo] = {
    "accuracy": MetricInfo("classification", scale=100),
    "f1": MetricInfo("classification", scale=100, two_classes=True),
    "matthews": MetricInfo("classification", scale=100, lowest=-1.0),
    "pearson": MetricInfo("regression", scale=100, lowest=-1.0),
    "spearman": MetricInfo("regression", scale=100, lowest=-1.0),
    "bleu": MetricInfo("generation", highest=100.0, digits=2),
    "nist": MetricInfo("generation", highest=math.inf),
    "meteor": MetricInfo("generation"),
    "ter": MetricInfo("generation", higher_is_better=False, highest=math.inf),
    "rouge_l": MetricInfo("generation"),
    "cider": MetricInfo("generation", highest=10.0),
    # Of a target token, in nats: training computes it, and no task lists it as a metric.
    "loss": MetricInfo("", higher_is_better=False, highest=math.inf),
}


def metrics_for(kind: str, classes: int) -> list[str]:
    """List the metrics that fit a kind of task; `classes` is its number of labels, 0 unless it is a classification task."""
    return [name for name, info in METRICS.items() if info.kind == kind and (classes == 2 or not info.two_classes)]
