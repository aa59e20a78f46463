"""Scoring a model: after each epoch on the evaluation splits, and for generation tasks on decoded texts at the end."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from mtlora.base.errors import RunFailed, UserError
from mtlora.base.interrupt import shielded
from mtlora.base.processes import gather, own_rows
from mtlora.config.schema import RunConfig
from mtlora.data.batches import evaluation_batches, sample_rows
from mtlora.data.encoding import Encoded, collate
from mtlora.score.compute import compute
from mtlora.train.compute import to_device
from mtlora.train.objectives import completion_loss

Answers = dict[str, np.ndarray | None]  # split -> class indices (n,) or scores (n,); None if a logit is not finite


@dataclass
class RunData:
    """The encoded splits of a run. `train_rows` are the row numbers used for training: all, or a fixed sample."""

    train: Encoded
    train_rows: np.ndarray
    evaluation: dict[str, Encoded]
    pad_token_id: int


def evaluate(
    config: RunConfig,
    accelerator: Accelerator,
    model: nn.Module,
    data: RunData,
    identity: str,
    answers: Answers | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Score a model on every evaluation split; the adapter stays unmerged, as in the official code.

    Args:
        answers: of the model, if `predict` was called before; not for a generation task.

    Returns:
        metrics {split: {name: value}} and predictions {split: class indices (n,) or scores (n,)}. For a generation task the
        only metric is the mean `loss` of a target token, in nats and without label smoothing, and there are no predictions.

    Raises:
        RunFailed: a prediction is not finite.
    """
    model.eval()
    if config.task.kind == "generation":
        return {split: {"loss": mean_loss(config, accelerator, model, data, split)} for split in data.evaluation}, {}
    if answers is None:
        (answers,) = predict(config, accelerator, lambda batch: model(**batch).logits[None], data, 1)
    metrics, predictions = {}, {}
    for split, encoded in data.evaluation.items():
        if (found := answers[split]) is None:
            raise RunFailed(f"predictions on {split} are not finite: lower train.learning_rate")
        predictions[split] = found
        with shielded():  # a signal during the destructor of `evaluate`'s metric would be lost
            metrics[split] = compute(config.task.metrics[split], found, encoded.labels, experiment_id=identity)
    return metrics, predictions


def predict(
    config: RunConfig,
    accelerator: Accelerator,
    forward: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    data: RunData,
    runs: int,
) -> list[Answers]:
    """Return the answers of each run to every evaluation split of a classification or regression task.

    Args:
        forward: takes a batch of n rows, without labels, and returns the logits of all runs, (runs, n, classes).
    """
    # On a CPU a batch of the rows of all runs would be too large for the caches; on a GPU a small one leaves it idle.
    size = config.train.eval_batch_size // (1 if accelerator.device.type == "cuda" else runs)
    answers: list[Answers] = [{} for _ in range(runs)]
    for split, encoded in data.evaluation.items():
        parts = []
        for rows in own_rows(evaluation_batches(encoded.lengths, max(1, size))):
            batch = collate(encoded, rows, data.pad_token_id, config.data.padding, config.data.max_length)
            del batch["labels"]
            with torch.no_grad(), accelerator.autocast():
                logits = forward(to_device(batch, accelerator.device)).float()
            answer = logits.squeeze(-1) if config.task.kind == "regression" else logits.argmax(-1)
            parts.append((rows, answer.cpu().numpy(), torch.isfinite(logits).flatten(1).all(1).cpu().numpy()))
        found = np.zeros((runs, len(encoded)), dtype=encoded.labels.dtype)
        finite = np.ones(runs, dtype=bool)
        for rows, values, are_finite in gather(parts):
            found[:, rows] = values
            finite &= are_finite
        for run in range(runs):
            answers[run][split] = found[run] if finite[run] else None
    return answers


def mean_loss(config: RunConfig, accelerator: Accelerator, model: nn.Module, data: RunData, split: str) -> float:
    """Return the mean cross-entropy of a split's target tokens in nats.

    Raises:
        RunFailed: the loss is not finite.
        UserError: no row has a target token.
    """
    encoded, parts = data.evaluation[split], []
    chosen = sample_rows(len(encoded), config.train.limit_validation, split, config.task.name)
    batches = list(enumerate(evaluation_batches(encoded.lengths[chosen], config.train.eval_batch_size)))
    for number, batch_rows in own_rows(batches):
        rows = chosen[batch_rows]
        batch = collate(encoded, rows, data.pad_token_id, config.data.padding, config.data.max_length)
        batch = to_device(batch, accelerator.device)
        with torch.no_grad(), accelerator.autocast():
            loss, tokens = completion_loss(model, batch)
        parts.append((number, loss.item(), tokens))
    total, count = 0.0, 0
    for _, loss_sum, tokens in sorted(gather(parts)):  # the same order of summation for any number of processes
        total, count = total + loss_sum, count + tokens
    if not np.isfinite(total):
        raise RunFailed(f"the loss on {split} is not finite: lower train.learning_rate")
    if not count:
        raise UserError(
            f"no row of {split} has a token of its text within data.max_length={config.data.max_length}: raise it"
        )
    return total / count
