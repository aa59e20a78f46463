"""The training loop that every method, task and model shares. It reads from top to bottom: `train` is the whole story.

The runs of a cohort train in lock-step: their batches make one forward and one backward pass. A run alone is a cohort of one; the
two differ in their `Step` only.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator

from mtlora.base.errors import UserError
from mtlora.base.interrupt import shielded
from mtlora.train.run import Run

OnEnd = Callable[[Run], None]
OnStep = Callable[[int, int], None]


class Step(Protocol):
    """How runs take an optimizer step."""

    accelerator: Accelerator

    def begin(self, runs: Sequence[Run]) -> None:
        """Prepare for an epoch of these runs, or for what is left of it."""

    def __call__(
        self, batches: Sequence[list[np.ndarray]], seeds: Sequence[int]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Take one optimizer step of each run; return each run's loss and the norm of its gradient, both scalars.

        Args:
            batches: for each run the batches of its step, arrays of row numbers.
            seeds: for each run the seed of its dropout.
        """


def train(runs: Sequence[Run], step: Step, on_end: OnEnd, on_step: OnStep = lambda done, total: None) -> None:
    """Train runs to their ends, from their checkpoints if there are any, and evaluate them after each epoch.

    Runs whose checkpoints are at different steps train one group after another.

    Args:
        runs: of one `grouping.cohort_key`, on one device.
        step: takes an optimizer step of all runs.
        on_end: called once with each run that has finished, or that has failed (`run.failure`); the others go on.
        on_step: called with (steps done, steps in all) after each optimizer step.

    Raises:
        CohortUnsupported: these models cannot train in lock-step; nothing has been trained.
    """
    for run in runs:
        run.restore()
    try:
        for _, group in groupby(sorted(runs, key=steps_done), key=steps_done):
            active = list(group)
            for run in active:
                run.start_clock(len(active))
            active = without_ended(active, on_end)
            while active:
                train_epoch(active, step, on_step)
                active = without_ended(active, on_end)
    except (KeyboardInterrupt, SystemExit):
        for run in runs:
            if not (run.finished or run.failure):
                run.save_if_possible()
        raise


def train_epoch(runs: Sequence[Run], step: Step, on_step: OnStep) -> None:
    """Train the rest of an epoch and evaluate; a run that fails ends the epoch here, and the others go on with it later."""
    for run in runs:
        run.share_clock(len(runs))
    step.begin(runs)
    for batches in zip(*(run.steps_left() for run in runs), strict=True):
        with shielded():  # a signal waits until the step, and what is noted of it, are complete
            started = time.monotonic()
            losses, norms = step(batches, [run.begin_step() for run in runs])
            seconds = (time.monotonic() - started) / len(runs)
            for run, own, loss, norm in zip(runs, batches, losses, norms, strict=True):
                with noting_failure(run):
                    run.end_step(own, loss, norm, seconds)
        on_step(runs[0].state.step, runs[0].total)
        if any(run.failure for run in runs):
            return
    for run in runs:
        with noting_failure(run):
            metrics = run.evaluate(step.accelerator)
            with shielded():
                run.end_epoch(metrics)


@contextmanager
def noting_failure(run: Run) -> Iterator[None]:
    """Keep what stops a run, such as a loss that is not finite, with the run: the others of its cohort go on."""
    try:
        yield
    except UserError as error:
        run.failure = error


def without_ended(runs: Sequence[Run], on_end: OnEnd) -> list[Run]:
    """Hand over the runs that have finished or failed; return the others."""
    for run in runs:
        if run.failure or run.finished:
            on_end(run)
    return [run for run in runs if not (run.failure or run.finished)]


def steps_done(run: Run) -> int:
    """Return the number of optimizer steps that a run has done."""
    return run.state.step
