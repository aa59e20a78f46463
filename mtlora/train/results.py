"""Entries of a record that come from a trained run: metrics, baselines, predictions, cost."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mtlora.config.metrics import METRICS
from mtlora.config.schema import TaskConfig
from mtlora.records.schema import Baseline, Cost, Epoch, Metric, Selection
from mtlora.score.compute import baseline
from mtlora.train.evaluation import RunData
from mtlora.train.memory import peak_memory_bytes
from mtlora.train.state import TrainingState


def last_and_best(epochs: list[Epoch]) -> list[Metric]:
    """List every metric's value in the last epoch, and in the best epoch: that of the best value of the task's first metric."""
    split, names = next(iter(epochs[-1]["metrics"].items()))
    first = next(iter(names))
    best = (max if METRICS[first].higher_is_better else min)(epochs, key=lambda epoch: epoch["metrics"][split][first])
    entries: list[Metric] = []
    for part, values in epochs[-1]["metrics"].items():
        for name, last in values.items():
            entries.append(metric_entry(name, part, "last", last))
            entries.append(metric_entry(name, part, "best", best["metrics"][part][name]))
    return entries


def of_last_epoch(scores: dict[str, dict[str, float]]) -> list[Metric]:
    """List the scores {split: {metric: value}} of decoded texts, which exist for the last epoch only."""
    return [metric_entry(name, split, "last", v) for split, values in scores.items() for name, v in values.items()]


def metric_entry(name: str, split: str, selection: Selection, value: float) -> Metric:
    """Return one item of a record's `metrics`; the value is on the raw scale."""
    higher = METRICS[name].higher_is_better
    return {"name": name, "split": split, "selection": selection, "value": value, "higher_is_better": higher}


def epoch_figures(epochs: Sequence[Epoch]) -> str:
    """Return the training loss and the first metric, if any, of an epoch; of several runs the lowest and the highest value."""
    losses = [epoch.get("train_loss", float("nan")) for epoch in epochs]
    if not epochs[0]["metrics"]:  # of a data-to-text task without a development set
        return f"loss {_range('loss', losses)}"
    split, names = next(iter(epochs[0]["metrics"].items()))
    name = next(iter(names))
    found = [epoch["metrics"][split][name] for epoch in epochs]
    label = "validation loss" if name == "loss" else name
    return f"loss {_range('loss', losses)}, {label} {_range(name, found)}"


def _range(name: str, values: Sequence[float]) -> str:
    low, high = (METRICS[name].shown(value) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def baselines(task: TaskConfig, data: RunData) -> list[Baseline]:
    """List the score of the majority answer for every metric and split; generated texts have none."""
    if task.kind == "generation":
        return []
    return [
        {"name": name, "split": split, "value": baseline(name, encoded.labels)}
        for split, encoded in data.evaluation.items()
        for name in task.metrics[split]
    ]


def row_counts(data: RunData, contexts: int) -> dict[str, int]:
    """Count the rows of each split that a run reads; for the test split of a generation task, the decoded contexts."""
    counts = {"train": len(data.train)} | {split: len(encoded) for split, encoded in data.evaluation.items()}
    return counts | ({"test": contexts} if contexts else {})


def prediction_rows(data: RunData, predictions: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yield one row per evaluated example of the last epoch."""
    for split, answers in predictions.items():
        for index, (answer, label) in enumerate(zip(answers, data.evaluation[split].labels, strict=True)):
            yield {"split": split, "index": index, "prediction": answer.item(), "label": label.item()}


def cost(state: TrainingState, device: torch.device) -> Cost:
    """Return the run's cost; seconds add up over resumed attempts."""
    return {
        "seconds": state.seconds,
        "train_seconds": state.train_seconds,
        "steps": state.step,
        "tokens": state.tokens,
        "tokens_per_second": state.tokens / state.train_seconds,
        "peak_memory_bytes": peak_memory_bytes(device),
    }
