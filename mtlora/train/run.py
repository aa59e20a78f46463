"""`Run`: the model, data, optimizer and progress of one run, and the files in which its progress is kept.

`loop.train` drives it: restore; for each step begin_step and end_step; after each epoch evaluate and end_epoch.
"""

import logging
import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from mtlora.base.errors import RunFailed, UserError
from mtlora.base.files import write_jsonl
from mtlora.base.processes import is_first, rank
from mtlora.base.streams import stream_seed
from mtlora.config.schema import RunConfig
from mtlora.plan.cell import Cell
from mtlora.records.predictions import Context
from mtlora.records.record import GEOMETRY, RunRecord
from mtlora.records.schema import Cohort
from mtlora.train.batches import steps_of_epoch
from mtlora.train.evaluation import Answers, RunData, evaluate
from mtlora.train.model.geometry import transform_geometry
from mtlora.train.model.methods import MethodModel
from mtlora.train.optimizer import learning_rate, make_optimizer, set_learning_rate
from mtlora.train.state import CHECKPOINT, TrainingState, load_checkpoint, save_checkpoint
from mtlora.train.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Run:
    """One run in training.

    Its folder holds metrics.jsonl, geometry.jsonl and, until the run is finished, the checkpoint.
    """

    cell: Cell
    record: RunRecord
    model: MethodModel
    data: RunData
    tokenizer: PreTrainedTokenizerBase
    tracker: Tracker
    device: torch.device
    contexts: list[Context] = field(default_factory=list)  # of a generation task: decoded after training
    cohort: Cohort | None = None  # the cohort of this attempt
    state: TrainingState = field(default_factory=TrainingState)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)  # split -> predictions of the last evaluation
    failure: UserError | None = None  # why the run cannot continue

    def __post_init__(self) -> None:
        """Make the optimizer; `restore` loads the checkpoint."""
        t = self.config.train
        self.optimizer: torch.optim.Optimizer = make_optimizer(self.model, t)
        batches = math.ceil(len(self.data.train_rows) / t.batch_size)
        self.steps_per_epoch = math.ceil(batches / t.accumulation)
        self.total = self.steps_per_epoch * t.epochs
        self.norm_limit = t.max_grad_norm or math.inf  # of a gradient
        self.rate = 0.0  # of the current step
        self._saved_at = time.monotonic()
        self.start_clock()

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.cell.config

    @property
    def identity(self) -> str:
        """The configuration and the kind of device, on which dropout depends; a checkpoint fits only if it has the same."""
        return f"{self.cell.sha} on {self.device.type}"

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.state.epoch >= self.config.train.epochs

    def restore(self) -> None:
        """Resume from the checkpoint, if there is one of this run."""
        saved = load_checkpoint(self.cell.folder / CHECKPOINT, self.identity, self.model, self.optimizer)
        self.state = saved or TrainingState(geometry=transform_geometry(self.model, 0))
        self.state.cohort = self.cohort or self.state.cohort

    def save(self) -> None:
        """Write a checkpoint."""
        self.note_time()
        self._saved_at = time.monotonic()
        if is_first():
            save_checkpoint(self.cell.folder / CHECKPOINT, self.identity, self.model, self.optimizer, self.state)

    def save_if_possible(self) -> None:
        """Write a checkpoint; if that fails, only warn, so that the error that ends the run stays visible."""
        try:
            self.save()
        except UserError as error:
            log.warning("no checkpoint: %s", error)

    def start_clock(self, runs: float = 1) -> None:
        """Count wall time from now on; of several runs in lock-step, each counts its share, and of infinitely many nothing."""
        self._clock, self._sharing = time.monotonic(), runs

    def note_time(self) -> None:
        """Add the wall time since the last call to the time of all attempts."""
        now = time.monotonic()
        self.state.seconds += (now - self._clock) / self._sharing
        self._clock = now

    def steps_left(self) -> list[list[np.ndarray]]:
        """Return the remaining optimizer steps of the current epoch, each a list of batches of row numbers."""
        return steps_of_epoch(self.config, self.data, self.state.epoch)[self.state.epoch_step :]

    def begin_step(self) -> int:
        """Set the learning rate of the next step; return the seed of its dropout, which differs between processes."""
        self.rate = learning_rate(self.config, self.state.step, self.total)
        set_learning_rate(self.optimizer, self.rate)
        step = self.state.step
        name = str(step) if is_first() else f"{step}/{rank()}"
        return stream_seed(self.config.seed, self.config.task.name, "dropout", name)

    def end_step(self, batches: list[np.ndarray], loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Count a step; at intervals, add a row to metrics.jsonl.

        Raises:
            RunFailed: the loss or the gradient's norm is not finite.
        """
        t, state = self.config.train, self.state
        state.window.append(loss)
        state.step += 1
        state.epoch_step += 1
        state.tokens += int(sum(self.data.train.lengths[rows].sum() for rows in batches))
        if state.step % t.log_every == 0 or state.epoch_step == self.steps_per_epoch:
            self._close_window(norm)

    def save_if_due(self) -> None:
        """Write a checkpoint if the last one is older than `train.checkpoint_seconds`."""
        if time.monotonic() - self._saved_at > self.config.train.checkpoint_seconds:
            self.save()

    def _close_window(self, norm: torch.Tensor) -> None:
        """Add a row for metrics.jsonl with the mean loss of the steps since the last row."""
        state = self.state
        mean = _finite("training loss", torch.stack(state.window).mean(), state.step)
        row = {"step": state.step, "epoch": state.epoch + 1, "train_loss": mean}
        row["grad_norm"] = _finite("gradient norm", norm, state.step)
        row["learning_rate"] = self.rate
        state.rows.append(row)
        state.epoch_loss += mean * len(state.window)
        state.window = []
        self.tracker.log(row, state.step)

    def evaluate(self, accelerator: Accelerator, answers: Answers | None = None) -> dict[str, dict[str, float]]:
        """Score the model, or the answers that it has already given, keep the predictions, and return the metrics by split."""
        metrics, self.predictions = evaluate(self.config, accelerator, self.model, self.data, self.identity, answers)
        return metrics

    def end_epoch(self, metrics: dict[str, dict[str, float]]) -> None:
        """Count an epoch and its metrics; write metrics.jsonl, geometry.jsonl and a checkpoint."""
        state = self.state
        mean = state.epoch_loss / state.epoch_step
        state.epoch, state.epoch_step, state.epoch_loss = state.epoch + 1, 0, 0.0
        state.epochs.append({"epoch": state.epoch, "step": state.step, "train_loss": mean, "metrics": metrics})
        flat = {f"{split}/{name}": value for split, values in metrics.items() for name, value in values.items()}
        state.rows.append({"step": state.step, "epoch": state.epoch, **flat})
        self.tracker.log(flat, state.step)
        state.geometry += transform_geometry(self.model, state.epoch)
        if is_first():
            write_jsonl(self.cell.folder / "metrics.jsonl", state.rows)
            write_jsonl(self.cell.folder / GEOMETRY, state.geometry)
        self.save()


def _finite(name: str, value: torch.Tensor, step: int) -> float:
    """Return the value of a scalar tensor.

    Raises:
        RunFailed: it is NaN or infinite.
    """
    number = value.item()
    if not math.isfinite(number):
        raise RunFailed(f"the {name} is {number} at or shortly before step {step}: lower train.learning_rate")
    return number
