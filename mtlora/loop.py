"""The training loop that every method, task and model shares. It reads from top to bottom: `train` is the whole story.

Everything a killed run needs to go on with the same losses is in its checkpoint. There is no random state to save, because
batches depend on (seed, epoch) and dropout on (seed, step) alone.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from mtlora.checkpoint import CHECKPOINT, Progress, load_checkpoint, save_checkpoint
from mtlora.config import RunConfig, TrainConfig
from mtlora.evaluation import RunData, RunFailed, evaluate
from mtlora.geometry import transform_geometry
from mtlora.objectives import batch_loss
from mtlora.record import GEOMETRY, write_jsonl
from mtlora.streams import stream_seed
from mtlora.tasks.batches import epoch_batches
from mtlora.tasks.encoding import collate
from mtlora.tracking import Tracker


def train(
    config: RunConfig,
    accelerator: Accelerator,
    model: nn.Module,
    data: RunData,
    folder: Path,
    identity: str,
    tracker: Tracker,
    on_step: Callable[[int, int], None] = lambda step, total: None,
) -> tuple[Progress, dict[str, np.ndarray]]:
    """Train a model and evaluate it after each epoch.

    Args:
        folder: the run's folder; holds the checkpoint while the run is unfinished, metrics.jsonl and geometry.jsonl.
        identity: the run's config_sha; a checkpoint of another identity is refused.
        on_step: called with (steps done, steps in all) after each optimizer step.

    Returns:
        The finished progress, and the last epoch's predictions by split (in the order of the split's rows).

    Raises:
        RunFailed: the loss, the gradient's norm or a prediction is not finite.
        UserError: the checkpoint cannot be read, or the device is not there.
    """
    t = config.train
    identity = f"{identity} on {accelerator.device.type}"  # dropout differs between kinds of device
    optimizer = make_optimizer(model, t)
    model, optimizer = accelerator.prepare(model, optimizer)
    progress = load_checkpoint(folder / CHECKPOINT, identity, model, optimizer) or Progress()
    steps_per_epoch = math.ceil(math.ceil(len(data.train_rows) / t.batch_size) / t.accumulation)
    total = steps_per_epoch * t.epochs
    predictions: dict[str, np.ndarray] = {}
    started, saved_at = time.monotonic() - progress.seconds, time.monotonic()
    if not progress.geometry:
        progress.geometry = transform_geometry(accelerator.unwrap_model(model), 0)

    while progress.epoch < t.epochs:
        window: list[torch.Tensor] = []  # losses since the last row of metrics.jsonl
        for group in groups(config, data, progress.epoch)[progress.group :]:
            model.train()
            set_learning_rate(optimizer, learning_rate(t, progress.step, total))
            torch.manual_seed(stream_seed(config.seed, "dropout", str(progress.step)))
            step_started = time.monotonic()
            loss, norm = train_step(config, accelerator, model, optimizer, collated(config, data, group))
            window.append(loss)
            progress.step += 1
            progress.group += 1
            progress.tokens += int(sum(data.train.lengths[rows].sum() for rows in group))
            if progress.step % t.log_every == 0 or progress.group == steps_per_epoch:
                mean = finite("training loss", torch.stack(window).mean(), progress.step)
                row = {"step": progress.step, "epoch": progress.epoch + 1, "train_loss": mean}
                row["grad_norm"] = finite("gradient norm", norm, progress.step)
                row["learning_rate"] = optimizer.param_groups[0]["lr"]
                progress.rows.append(row)
                progress.epoch_loss += mean * len(window)
                tracker.log(row, progress.step)
                window = []
            progress.train_seconds += time.monotonic() - step_started
            progress.seconds = time.monotonic() - started
            if time.monotonic() - saved_at > t.checkpoint_seconds and not window:
                save_checkpoint(folder / CHECKPOINT, identity, model, optimizer, progress)
                saved_at = time.monotonic()
            on_step(progress.step, total)

        metrics, predictions = evaluate(config, accelerator, model, data, identity)
        close_epoch(progress, metrics, tracker)
        progress.seconds = time.monotonic() - started
        write_jsonl(folder / "metrics.jsonl", progress.rows)
        progress.geometry += transform_geometry(accelerator.unwrap_model(model), progress.epoch)
        write_jsonl(folder / GEOMETRY, progress.geometry)
        if progress.epoch < t.epochs or config.task.kind == "generation":  # decoding, which follows, takes long
            save_checkpoint(folder / CHECKPOINT, identity, model, optimizer, progress)
            saved_at = time.monotonic()
    return progress, predictions


def train_step(
    config: RunConfig,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[dict[str, torch.Tensor], float]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one optimizer step over the batches of a group; return the group's mean loss and the gradient's norm.

    Each batch comes with its share of the group's loss, so accumulation equals one large batch.
    """
    losses = []
    for batch, share in batches:
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        with accelerator.autocast():
            loss = batch_loss(config, model, batch) * share
        accelerator.backward(loss)
        losses.append(loss.detach().float())
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = accelerator.clip_grad_norm_(trained, config.train.max_grad_norm or math.inf)
    optimizer.step()
    optimizer.zero_grad()
    return torch.stack(losses).sum(), norm


def groups(config: RunConfig, data: RunData, epoch: int) -> list[list[np.ndarray]]:
    """Return the epoch's optimizer steps: each a list of `accumulation` batches of row numbers."""
    lengths = data.train.lengths[data.train_rows]
    t = config.train
    batches = epoch_batches(lengths, t.batch_size, config.data.order, config.task.name, config.seed, epoch)
    rows = [data.train_rows[batch] for batch in batches]
    return [rows[i : i + t.accumulation] for i in range(0, len(rows), t.accumulation)]


def collated(
    config: RunConfig, data: RunData, group: list[np.ndarray]
) -> Iterator[tuple[dict[str, torch.Tensor], float]]:
    """Yield the tensors of each batch of a group with its share of the group's examples, or of its target tokens."""
    weights = [len(rows) for rows in group]
    if config.task.kind == "generation":  # labels are the lengths of the prompts
        weights = [int((data.train.lengths[rows] - data.train.labels[rows]).sum()) for rows in group]
    for rows, weight in zip(group, weights, strict=True):
        batch = collate(data.train, rows, data.pad_token_id, config.data.padding, config.data.max_length)
        yield batch, weight / max(1, sum(weights))


def learning_rate(t: TrainConfig, step: int, total: int) -> float:
    """Return the rate of a step (counted from 0): linear warm-up from 0, then linear decay to 0."""
    warmup = t.warmup_steps if t.warmup_steps is not None else math.ceil(t.warmup_ratio * total)
    if step < warmup:
        return t.learning_rate * step / warmup
    return t.learning_rate * (total - step) / max(1, total - warmup)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def make_optimizer(model: nn.Module, t: TrainConfig) -> torch.optim.AdamW:
    """Make AdamW over the trainable parameters; decay skips biases and, with `decay_t=false`, the matrices of T."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_t = ".mtlora_C" in name or ".mtlora_D" in name
            skips = name.endswith("bias") or (is_t and not t.decay_t)
            (plain if skips else decayed).append(parameter)
    parameters = [{"params": decayed, "weight_decay": t.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in parameters if group["params"]], lr=0.0, betas=(t.beta1, t.beta2), eps=t.eps, fused=True
    )


def finite(name: str, value: torch.Tensor, step: int) -> float:
    """Return a scalar tensor's value; NaN or infinity ends the run."""
    number = value.item()
    if not math.isfinite(number):
        raise RunFailed(f"the {name} is {number} at or shortly before step {step}: lower train.learning_rate")
    return number


def close_epoch(progress: Progress, metrics: dict[str, dict[str, float]], tracker: Tracker) -> None:
    """Enter an epoch's evaluation into the progress."""
    mean = progress.epoch_loss / progress.group
    progress.epoch, progress.group, progress.epoch_loss = progress.epoch + 1, 0, 0.0
    summary = {"epoch": progress.epoch, "step": progress.step, "train_loss": mean, "metrics": metrics}
    progress.epochs.append(summary)
    flat = {f"{split}/{name}": value for split, values in metrics.items() for name, value in values.items()}
    progress.rows.append({"step": progress.step, "epoch": progress.epoch, **flat})
    tracker.log(flat, progress.step)
