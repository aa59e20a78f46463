"""Which metrics there are and how they are read."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


METRIC_VERSION = 1  # part of a run's identity: raise it when a metric's definition changes


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is read."""

    higher_is_better: bool
    percent: bool  # tables show the raw value times 100
    lowest: float = 0.0
    highest: float = 1.0
    text: bool = False  # of generated texts


METRICS: dict[str, MetricInfo] = {
    name: MetricInfo(higher_is_better=True, percent=True, lowest=lowest)
    for name, lowest in (("accuracy", 0.0), ("f1", 0.0), ("matthews", -1.0), ("pearson", -1.0), ("spearman", -1.0))
} | {
    name: MetricInfo(higher_is_better=name != "ter", percent=False, highest=highest, text=True)
    for name, highest in (
        ("bleu", 100.0),  # 0 to 100 as it is
        ("nist", math.inf),
        ("meteor", 1.0),
        ("ter", math.inf),
        ("rouge_l", 1.0),
        ("cider", math.inf),
    )
}
