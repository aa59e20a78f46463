"""The training loop that every method, task and model shares. It reads from top to bottom: `train` is the whole story.

Everything a killed run needs to go on with the same losses is in its checkpoint. There is no random state to save, because
batches depend on (seed, epoch) and dropout on (seed, step) alone.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import nn

from mtlora.base.errors import RunFailed, UserError
from mtlora.base.files import write_jsonl
from mtlora.base.interrupt import shielded
from mtlora.base.processes import is_first, rank, share, world_size
from mtlora.base.streams import stream_seed
from mtlora.config.schema import RunConfig, TrainConfig
from mtlora.data.batches import epoch_batches
from mtlora.data.encoding import collate
from mtlora.records.record import GEOMETRY
from mtlora.train.compute import to_device
from mtlora.train.evaluation import RunData, evaluate
from mtlora.train.model.attention import fastest_attention
from mtlora.train.model.geometry import transform_geometry
from mtlora.train.objectives import Objective
from mtlora.train.state import CHECKPOINT, Progress, load_checkpoint, save_checkpoint
from mtlora.train.tracking import Tracker

log = logging.getLogger(__name__)


class Run:
    """One run's side of training: its model and optimizer, how far it is, and the files that say so."""

    def __init__(
        self,
        config: RunConfig,
        model: PeftModel,
        data: RunData,
        folder: Path,
        identity: str,
        tracker: Tracker,
    ) -> None:
        """Make the optimizer; nothing is restored yet.

        Args:
            folder: holds the checkpoint while the run is unfinished, metrics.jsonl and geometry.jsonl.
            identity: the run's config_sha and kind of device; a checkpoint of another identity is refused.
        """
        self.config, self.model, self.data, self.tracker = config, model, data, tracker
        self.folder, self.identity = folder, identity
        self.optimizer: torch.optim.Optimizer = make_optimizer(model, config.train)
        self.progress = Progress()
        self.cohort: dict[str, Any] | None = None  # of this attempt
        self.predictions: dict[str, np.ndarray] = {}
        steps = math.ceil(len(data.train_rows) / config.train.batch_size)
        self.steps_per_epoch = math.ceil(steps / config.train.accumulation)
        self.total = self.steps_per_epoch * config.train.epochs
        self._saved_at = time.monotonic()
        self.start_clock()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.progress.epoch >= self.config.train.epochs

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one of this run."""
        saved = load_checkpoint(self.folder / CHECKPOINT, self.identity, self.model, self.optimizer)
        self.progress = saved or Progress(geometry=transform_geometry(self.model, 0))
        self.progress.cohort = self.cohort or self.progress.cohort
        self.start_clock()

    def start_clock(self, runs: int = 1) -> None:
        """Count wall time from now on; of several runs in lock-step each counts its share."""
        self._clock, self._sharing = time.monotonic(), runs

    def save(self) -> None:
        """Write a checkpoint."""
        self.note_time()
        self._saved_at = time.monotonic()
        if is_first():
            save_checkpoint(self.folder / CHECKPOINT, self.identity, self.model, self.optimizer, self.progress)

    def save_if_possible(self) -> None:
        """Write a checkpoint; only warn where that fails, as what ends the run matters more."""
        try:
            self.save()
        except UserError as error:
            log.warning("no checkpoint: %s", error)

    def note_time(self) -> None:
        """Enter the wall time over all attempts into the progress."""
        now = time.monotonic()
        self.progress.seconds += (now - self._clock) / self._sharing
        self._clock = now

    def groups(self) -> list[list[np.ndarray]]:
        """Return the optimizer steps that are left of the current epoch: each a list of batches of row numbers."""
        return groups(self.config, self.data, self.progress.epoch)[self.progress.group :]

    def begin_step(self) -> int:
        """Set the learning rate of the next step; return the seed of its dropout."""
        set_learning_rate(self.optimizer, learning_rate(self.config.train, self.progress.step, self.total))
        return dropout_seed(self.config.seed, self.progress.step)

    def end_step(self, group: list[np.ndarray], loss: torch.Tensor, norm: torch.Tensor, seconds: float) -> None:
        """Enter a step into the progress; now and then its losses into metrics.jsonl's rows, and a checkpoint.

        Raises:
            RunFailed: the loss or the gradient's norm is not finite.
        """
        t, progress, started = self.config.train, self.progress, time.monotonic()
        progress.window.append(loss)
        progress.step += 1
        progress.group += 1
        progress.tokens += int(sum(self.data.train.lengths[rows].sum() for rows in group))
        if progress.step % t.log_every == 0 or progress.group == self.steps_per_epoch:
            close_window(progress, norm, self.optimizer.param_groups[0]["lr"], self.tracker)
        progress.train_seconds += seconds + time.monotonic() - started
        if time.monotonic() - self._saved_at > t.checkpoint_seconds:
            self.save()

    def evaluate(self, accelerator: Accelerator) -> dict[str, dict[str, float]]:
        """Score the model, keep the predictions, and return the metrics by split."""
        metrics, self.predictions = evaluate(self.config, accelerator, self.model, self.data, self.identity)
        return metrics

    def end_epoch(self, metrics: dict[str, dict[str, float]]) -> None:
        """Enter an epoch into the progress, the files and a checkpoint."""
        progress = self.progress
        close_epoch(progress, metrics, self.tracker)
        progress.geometry += transform_geometry(self.model, progress.epoch)
        if is_first():
            write_jsonl(self.folder / "metrics.jsonl", progress.rows)
            write_jsonl(self.folder / GEOMETRY, progress.geometry)
        self.save()

    def close(self, accelerator: Accelerator) -> None:
        """Complete the predictions and the time of a run that has finished."""
        if not self.predictions and self.config.task.kind != "generation":  # the checkpoint was of the end
            self.evaluate(accelerator)
        self.note_time()


def train(run: Run, accelerator: Accelerator, on_step: Callable[[int, int], None] = lambda step, total: None) -> None:
    """Train a run to its end, from its checkpoint if there is one, and evaluate it after each epoch.

    Args:
        on_step: called with (steps done, steps in all) after each optimizer step.

    Raises:
        RunFailed: the loss, the gradient's norm or a prediction is not finite.
        UserError: a file cannot be written.
    """
    objective, run.optimizer = accelerator.prepare(Objective(run.config, run.model), run.optimizer)
    run.restore()
    try:
        while not run.finished:
            for group in run.groups():
                with shielded():  # a signal waits until the step and what is noted of it are whole
                    started = time.monotonic()
                    run.model.train()
                    torch.manual_seed(run.begin_step())
                    loss, norm = train_step(run, accelerator, objective, group)
                    run.end_step(group, loss, norm, time.monotonic() - started)
                on_step(run.progress.step, run.total)
            metrics = run.evaluate(accelerator)
            with shielded():
                run.end_epoch(metrics)
    except (KeyboardInterrupt, SystemExit):
        run.save_if_possible()
        raise
    run.close(accelerator)


def train_step(
    run: Run, accelerator: Accelerator, objective: nn.Module, group: list[np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one optimizer step over the batches of a group; return the group's mean loss and the gradient's norm.

    Each batch comes with its share of the group's loss, so accumulation equals one large batch.
    """
    losses = []
    batches = collated(run.config, run.data, group)
    for batch, part in zip(batches, loss_shares(run.config, run.data, group), strict=True):
        with accelerator.autocast(), fastest_attention(accelerator.device):
            loss = objective(to_device(batch, accelerator.device)) * part
        accelerator.backward(loss)
        losses.append(loss.detach().float())
    mean = accelerator.reduce(torch.stack(losses).sum(), "mean")  # over the processes
    norm = accelerator.clip_grad_norm_(trained(run.optimizer), run.config.train.max_grad_norm or math.inf)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return mean, norm


def trained(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the parameters of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def groups(config: RunConfig, data: RunData, epoch: int) -> list[list[np.ndarray]]:
    """Return the epoch's optimizer steps: each a list of `accumulation` batches of row numbers."""
    lengths = data.train.lengths[data.train_rows]
    t = config.train
    batches = epoch_batches(lengths, t.batch_size, config.data.order, config.task.name, config.seed, epoch)
    rows = [data.train_rows[batch] for batch in batches]
    return [rows[i : i + t.accumulation] for i in range(0, len(rows), t.accumulation)]


def collated(config: RunConfig, data: RunData, group: list[np.ndarray]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield this process's part of each batch of a group."""
    for rows in group:
        own = share(rows)
        used = own if len(own) else rows[:1]  # every process takes part in every batch, if with no weight
        yield collate(data.train, used, data.pad_token_id, config.data.padding, config.data.max_length)


def loss_shares(config: RunConfig, data: RunData, group: list[np.ndarray]) -> list[float]:
    """Return the share of this process's part of each batch in the group's examples, or in its target tokens.

    Processes average their gradients, so each share is multiplied by their number.
    """

    def weight(rows: np.ndarray) -> int:
        if config.task.kind == "generation":  # labels are the lengths of the prompts
            return int((data.train.lengths[rows] - data.train.labels[rows]).sum())
        return len(rows)

    whole = max(1, sum(map(weight, group)))
    return [weight(share(rows)) * world_size() / whole for rows in group]


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


def close_window(progress: Progress, norm: torch.Tensor, rate: float, tracker: Tracker) -> None:
    """Enter the mean loss of the steps since the last row of metrics.jsonl."""
    mean = finite("training loss", torch.stack(progress.window).mean(), progress.step)
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
