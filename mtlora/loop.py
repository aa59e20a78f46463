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
from mtlora.interrupt import shielded
from mtlora.objectives import Objective
from mtlora.processes import is_first, rank, share, world_size
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
        UserError: a file cannot be written.
    """
    t = config.train
    identity = f"{identity} on {accelerator.device.type}"  # dropout differs between kinds of device
    optimizer = make_optimizer(model, t)
    objective, optimizer = accelerator.prepare(Objective(config, model), optimizer)
    progress = load_checkpoint(folder / CHECKPOINT, identity, model, optimizer) or Progress()
    steps_per_epoch = math.ceil(math.ceil(len(data.train_rows) / t.batch_size) / t.accumulation)
    total = steps_per_epoch * t.epochs
    predictions: dict[str, np.ndarray] = {}
    started, saved_at = time.monotonic() - progress.seconds, time.monotonic()
    if not progress.geometry:
        progress.geometry = transform_geometry(model, 0)

    def save() -> None:
        nonlocal saved_at
        progress.seconds, saved_at = time.monotonic() - started, time.monotonic()
        if is_first():
            save_checkpoint(folder / CHECKPOINT, identity, model, optimizer, progress)

    try:
        while progress.epoch < t.epochs:
            for group in groups(config, data, progress.epoch)[progress.group :]:
                with shielded():  # a signal waits until the step and what is noted of it are whole
                    model.train()
                    set_learning_rate(optimizer, learning_rate(t, progress.step, total))
                    torch.manual_seed(dropout_seed(config.seed, progress.step))
                    step_started = time.monotonic()
                    loss, norm = train_step(config, accelerator, objective, optimizer, collated(config, data, group))
                    progress.window.append(loss)
                    progress.step += 1
                    progress.group += 1
                    progress.tokens += int(sum(data.train.lengths[rows].sum() for rows in group))
                    if progress.step % t.log_every == 0 or progress.group == steps_per_epoch:
                        close_window(accelerator, progress, norm, optimizer.param_groups[0]["lr"], tracker)
                    progress.train_seconds += time.monotonic() - step_started
                    if time.monotonic() - saved_at > t.checkpoint_seconds:
                        save()
                on_step(progress.step, total)

            metrics, predictions = evaluate(config, accelerator, model, data, identity)
            with shielded():
                close_epoch(progress, metrics, tracker)
                progress.geometry += transform_geometry(model, progress.epoch)
                if is_first():
                    write_jsonl(folder / "metrics.jsonl", progress.rows)
                    write_jsonl(folder / GEOMETRY, progress.geometry)
                save()
    except (KeyboardInterrupt, SystemExit):
        save()
        raise
    if not predictions and config.task.kind != "generation":  # the checkpoint was of the end
        _, predictions = evaluate(config, accelerator, model, data, identity)
    progress.seconds = time.monotonic() - started
    return progress, predictions


def train_step(
    config: RunConfig,
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[dict[str, torch.Tensor], float]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one optimizer step over the batches of a group; return the group's mean loss and the gradient's norm.

    Each batch comes with its share of the group's loss, so accumulation equals one large batch.
    """
    losses = []
    for batch, part in batches:
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        with accelerator.autocast():
            loss = objective(batch) * part
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
    """Yield this process's part of each batch of a group with its share of the group's examples, or of its target tokens.

    Processes average their gradients, so each share is multiplied by their number.
    """

    def weight(rows: np.ndarray) -> int:
        if config.task.kind == "generation":  # labels are the lengths of the prompts
            return int((data.train.lengths[rows] - data.train.labels[rows]).sum())
        return len(rows)

    whole = max(1, sum(map(weight, group)))
    for rows in group:
        own = share(rows)
        part = weight(own) * world_size() / whole
        used = own if len(own) else rows[:1]  # every process takes part in every batch, if with no weight
        yield collate(data.train, used, data.pad_token_id, config.data.padding, config.data.max_length), part


def dropout_seed(seed: int, step: int) -> int:
    """Return the seed of a step's dropout; other processes than the first draw masks of their own."""
    return stream_seed(seed, "dropout", str(step) if is_first() else f"{step}/{rank()}")


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


def close_window(
    accelerator: Accelerator, progress: Progress, norm: torch.Tensor, rate: float, tracker: Tracker
) -> None:
    """Enter the mean loss of the steps since the last row of metrics.jsonl."""
    loss = accelerator.reduce(torch.stack(progress.window).mean(), "mean")  # over the processes
    mean = finite("training loss", loss, progress.step)
    row = {"step": progress.step, "epoch": progress.epoch + 1, "train_loss": mean}
    row["grad_norm"] = finite("gradient norm", norm, progress.step)
    row["learning_rate"] = rate
    progress.rows.append(row)
    progress.epoch_loss += mean * len(progress.window)
    progress.window = []
    tracker.log(row, progress.step)


def close_epoch(progress: Progress, metrics: dict[str, dict[str, float]], tracker: Tracker) -> None:
    """Enter an epoch's evaluation into the progress."""
    mean = progress.epoch_loss / progress.group
    progress.epoch, progress.group, progress.epoch_loss = progress.epoch + 1, 0, 0.0
    summary = {"epoch": progress.epoch, "step": progress.step, "train_loss": mean, "metrics": metrics}
    progress.epochs.append(summary)
    flat = {f"{split}/{name}": value for split, values in metrics.items() for name, value in values.items()}
    progress.rows.append({"step": progress.step, "epoch": progress.epoch, **flat})
    tracker.log(flat, progress.step)
