"""Scoring a model: after each epoch on the evaluation splits, and for generation tasks on decoded texts at the end."""

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


@dataclass
class RunData:
    """The encoded splits of a run. `train_rows` are the row numbers used for training: all, or a fixed sample."""

    train: Encoded
    train_rows: np.ndarray
    evaluation: dict[str, Encoded]
    pad_token_id: int


def evaluate(
    config: RunConfig, accelerator: Accelerator, model: nn.Module, data: RunData, identity: str
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Score a model on every evaluation split; the adapter stays unmerged, as in the official code.

    Returns:
        metrics {split: {name: value}} and predictions {split: class indices (n,) or scores (n,)}. For a generation task the
        only metric is the mean `loss` of a target token, in nats and without label smoothing, and there are no predictions.

    Raises:
        RunFailed: a prediction is not finite.
    """
    model.eval()
    if config.task.kind == "generation":
        return {split: {"loss": mean_loss(config, accelerator, model, data, split)} for split in data.evaluation}, {}
    metrics, predictions = {}, {}
    for split, encoded in data.evaluation.items():
        parts = []
        for rows in own_rows(evaluation_batches(encoded.lengths, config.train.eval_batch_size)):
            batch = collate(encoded, rows, data.pad_token_id, config.data.padding, config.data.max_length)
            del batch["labels"]
            batch = to_device(batch, accelerator.device)
            with torch.no_grad(), accelerator.autocast():
                logits = model(**batch).logits.float()
            answer = logits.squeeze(-1) if config.task.kind == "regression" else logits.argmax(-1)
            parts.append((rows, answer.cpu().numpy(), bool(torch.isfinite(logits).all())))
        answers = np.zeros(len(encoded), dtype=encoded.labels.dtype)
        for rows, values, is_finite in gather(parts):
            if not is_finite:
                raise RunFailed(f"predictions on {split} are not finite: lower train.learning_rate")
            answers[rows] = values
        predictions[split] = answers
        with shielded():  # a signal during the destructor of `evaluate`'s metric would be lost
            metrics[split] = compute(config.task.metrics[split], answers, encoded.labels, experiment_id=identity)
    return metrics, predictions


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
