"""The training loop that every method, task and model shares. Read from top to bottom, this file is the whole story of training.

- `train` resumes the runs from their checkpoints and trains them, one epoch after another.
- `train_epoch` takes the optimizer steps of an epoch, evaluates, and writes a checkpoint.
- `SoloStep` takes one optimizer step: forward, backward, gradient clipping, AdamW.

The runs of a cohort train in lock-step: their batches share one forward and one backward pass (`cohort.step.CohortStep`). A run
alone is a cohort of one, so the two cases differ only in their `Step`.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator

from mtlora.base.errors import UserError
from mtlora.base.interrupt import shielded, taken
from mtlora.train.batches import collated, loss_shares
from mtlora.train.compute import to_device
from mtlora.train.evaluation import Answers
from mtlora.train.model.dropout import Masks, use_masks
from mtlora.train.objectives import Objective
from mtlora.train.optimizer import trained
from mtlora.train.run import Run

OnEnd = Callable[[Run], None]
OnStep = Callable[[int, int], None]
OnEpoch = Callable[[Sequence[Run]], None]


def train(
    runs: Sequence[Run],
    step: "Step",
    on_end: OnEnd,
    on_step: OnStep = lambda done, total: None,
    on_epoch: OnEpoch = lambda runs: None,
) -> None:
    """Train runs to their ends, from their checkpoints if there are any, and evaluate them after each epoch.

    Args:
        runs: of one `grouping.cohort_key`, on one device.
        step: takes an optimizer step of all runs.
        on_end: called once with each run that has finished, or that has failed (`run.failure`); the others continue.
        on_step: called with (steps done, steps in all) after each optimizer step.
        on_epoch: called after each epoch with the runs that have evaluated it.

    Raises:
        CohortUnsupported: these models cannot train in lock-step; nothing has been trained.
    """
    for run in runs:
        run.restore()  # weights, optimizer state and progress, if there is a checkpoint
    active: list[Run] = []
    try:
        # Only runs at the same place can train in lock-step; if the checkpoints differ, one cohort trains after another.
        for _, cohort in groupby(sorted(runs, key=place), key=place):
            active = list(cohort)
            for run in active:
                run.start_clock(len(active))
            active = without_ended(active, on_end)
            while active:
                train_epoch(active, step, on_step, on_epoch)
                active = without_ended(active, on_end)
    except (KeyboardInterrupt, SystemExit):
        taken()
        for run in active:
            if not (run.finished or run.failure):
                run.save_if_possible()
        raise


def train_epoch(runs: Sequence[Run], step: "Step", on_step: OnStep, on_epoch: OnEpoch) -> None:
    """Train what is left of an epoch, evaluate, and write a checkpoint.

    A run that fails ends the call; the next call continues the epoch with the other runs.
    """
    step.begin(runs)
    # An optimizer step of a run consists of `train.accumulation` batches of row numbers; see `batches.steps_of_epoch`.
    for batches in zip(*(run.steps_left() for run in runs), strict=True):
        with shielded():  # Ctrl-C takes effect only after the step is complete and recorded
            started = time.monotonic()
            seeds = [run.begin_step() for run in runs]  # sets the learning rate; each seed is that of the dropout
            losses, norms = step(batches, seeds)
            for run, own, loss, norm in zip(runs, batches, losses, norms, strict=True):
                with noting_failure(run):  # a loss or a norm that is not finite
                    run.end_step(own, loss, norm)  # counts and logs
            # Logging is where the CPU waits for a GPU, for all runs at once, so its time belongs to all of them.
            seconds = (time.monotonic() - started) / len(runs)
            for run in runs:
                run.state.train_seconds += seconds
                if not run.failure:
                    with noting_failure(run):
                        run.save_if_due()
        on_step(runs[0].state.step, runs[0].total)
        if any(run.failure for run in runs):
            return
    found = {}
    for run, answers in zip(runs, step.predict(), strict=True):
        with noting_failure(run):
            found[run] = run.evaluate(step.accelerator, answers)
    with shielded():  # an interruption leaves all runs at one place, so that they go on in lock-step
        for run, metrics in found.items():
            with noting_failure(run):
                run.end_epoch(metrics)  # logs the metrics and writes a checkpoint
    if ended := [run for run in runs if not run.failure]:
        on_epoch(ended)


class Step(Protocol):
    """An optimizer step of runs that train in lock-step: `SoloStep` for a run alone, else `CohortStep`."""

    accelerator: Accelerator

    def begin(self, runs: Sequence[Run]) -> None:
        """Prepare for an epoch of these runs, or for the rest of one."""

    def __call__(
        self, batches: Sequence[list[np.ndarray]], seeds: Sequence[int]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Take one optimizer step of each run; return each run's loss and the norm of its gradient, both scalars.

        Args:
            batches: for each run the batches of its step, arrays of row numbers.
            seeds: for each run the seed of its dropout.
        """

    def predict(self) -> Sequence[Answers | None]:
        """Return the answers of each run to the evaluation splits; None where the run evaluates itself."""


class SoloStep:
    """The optimizer step of a run alone, in one process or in several."""

    def __init__(self, run: Run, accelerator: Accelerator) -> None:
        """Let the accelerator wrap the run's model and optimizer."""
        self.run, self.accelerator = run, accelerator
        self.masks = Masks([run.config.seed], accelerator.device)
        use_masks(run.model, self.masks)
        self.objective, run.optimizer = accelerator.prepare(Objective(run.config, run.model), run.optimizer)

    def begin(self, runs: Sequence[Run]) -> None:
        """Put the model into training mode."""
        self.run.model.train()

    def __call__(
        self, batches: Sequence[list[np.ndarray]], seeds: Sequence[int]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Take one optimizer step over the batches of the only run."""
        run, accelerator, (own,) = self.run, self.accelerator, batches
        self.masks.begin_step(seeds)
        losses = []
        # Each batch counts by its share of the step's examples, so accumulation gives the gradient of one large batch.
        shares = loss_shares(run.config, run.data, own)
        for batch, share in zip(collated(run.config, run.data, own), shares, strict=True):
            with accelerator.autocast():
                loss = self.objective(to_device(batch, accelerator.device)) * share
            accelerator.backward(loss)
            losses.append(loss.detach().float())
        mean = accelerator.reduce(torch.stack(losses).sum(), "mean")  # over the processes
        norm = accelerator.clip_grad_norm_(trained(run.optimizer), run.norm_limit)
        run.optimizer.step()
        run.optimizer.zero_grad()
        return [mean], [norm]

    def predict(self) -> Sequence[Answers | None]:
        """Leave the evaluation to the run."""
        return [None]


@contextmanager
def noting_failure(run: Run) -> Iterator[None]:
    """Turn a UserError into the run's failure, so that the other runs of its cohort continue."""
    try:
        yield
    except UserError as error:
        run.failure = error


def without_ended(runs: Sequence[Run], on_end: OnEnd) -> list[Run]:
    """Call `on_end` with the runs that have finished or failed, which costs no run any time; return the others."""
    for run in runs:
        run.note_time()
        run.start_clock(math.inf)  # also if an interruption saves the others meanwhile
    left = [run for run in runs if not (run.failure or run.finished)]
    for run in runs:
        if run not in left:
            on_end(run)
    for run in left:
        run.start_clock(len(left))
    return left


def place(run: Run) -> tuple[int, int]:
    """Return the epochs that a run has evaluated, and the optimizer steps that it has done since then."""
    return run.state.epoch, run.state.epoch_step
