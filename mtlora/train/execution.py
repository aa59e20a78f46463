"""From cells to outcomes: lock the cells, skip those that are finished, and train the others.

Each cell gets an `Outcome`; if it is done or failed, its record says the same, unless that cannot be written. `lifecycle` has
the stages of a single run.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress

from accelerate import Accelerator

from mtlora.base.errors import CohortUnsupported, UserError
from mtlora.base.files import Busy, only_process
from mtlora.base.interrupt import shielded, taken
from mtlora.base.messages import one_line
from mtlora.base.processes import is_first, rank
from mtlora.base.progress import epoch_line, show_progress
from mtlora.plan.cell import Cell
from mtlora.records.record import RunRecord, record_status
from mtlora.train import lifecycle
from mtlora.train.cohort.fit import cohorts_that_fit
from mtlora.train.cohort.step import CohortStep
from mtlora.train.compute import make_accelerator
from mtlora.train.loop import SoloStep, Step, train
from mtlora.train.memory import reset_peak_memory
from mtlora.train.outcome import Outcome, Status
from mtlora.train.results import epoch_figures
from mtlora.train.run import Run

log = logging.getLogger(__name__)


def execute(cells: Sequence[Cell]) -> list[Outcome]:
    """Train the cells that are not finished, several of them in lock-step, and return an outcome for each cell.

    A run that fails does not affect the others. If the memory is too small for all runs together, those that have not ended get
    the outcome `RETRY`: a smaller cohort can resume them from their checkpoints. Under `torchrun`, every process of a run calls
    this function.

    Args:
        cells: one, or several of one `grouping.cohort_key`.
    """
    if not is_first():
        return [_assist(cell) for cell in cells]
    outcomes: dict[str, Outcome] = {}
    waiting = []
    with ExitStack() as locks:
        for cell in cells:
            try:
                locks.enter_context(_owned(cell))
                if (record := lifecycle.finished_record(cell)) is not None:
                    outcomes[cell.sha] = Outcome(Status.DONE, record)
                else:
                    waiting.append(cell)
            except Busy as busy:
                outcomes[cell.sha] = Outcome(Status.BUSY, reason=one_line(busy))
            except Exception as error:  # a finished run could not be scored again, or the folder cannot be written
                outcomes[cell.sha] = Outcome(Status.FAILED, reason=lifecycle.status_and_reason(error, cell.folder)[1])
        if waiting:
            Attempt(waiting, outcomes).run()
    return [outcomes.get(cell.sha, Outcome(Status.RETRY)) for cell in cells]


def _owned(cell: Cell) -> AbstractContextManager[None]:
    """Hold a cell's lock.

    Raises:
        Busy: another process is training it.
    """
    return only_process(cell.lock, f"{cell.run_id} is being trained by another process: wait for it, or end it")


def _assist(cell: Cell) -> Outcome:
    """Train as a process other than the first of a run: the first process writes the files and reports the outcome."""
    record = lifecycle.new_record(cell)
    if record_status(cell.folder) != "success":
        try:
            accelerator = make_accelerator(cell.config)
            run = lifecycle.prepare(cell, record, accelerator, shared=False)
            train([run], SoloStep(run, accelerator), lambda run: _complete_or_raise(run, accelerator))
        except Exception as error:
            reason = f"process {rank()} of {cell.run_id} ended: {' '.join(str(error).split())[:200]}"
            return Outcome(Status.FAILED, reason=reason)
    return Outcome(Status.DONE, record)


def _complete_or_raise(run: Run, accelerator: Accelerator) -> None:
    if run.failure is not None:
        raise run.failure
    lifecycle.complete(run, accelerator)


class Attempt:
    """An attempt at training cells together; each cell ends with a record, even if the process is interrupted."""

    def __init__(self, cells: Sequence[Cell], outcomes: dict[str, Outcome]) -> None:
        """Take cells that this process has locked, and the dictionary, by config_sha, that receives their outcomes."""
        self.cells, self.outcomes = cells, outcomes
        self.begun: dict[str, tuple[Cell, RunRecord]] = {}  # runs that have not ended, by config_sha
        self.ready: dict[str, Run] = {}  # those of them that can train

    def run(self) -> None:
        """Mark the cells as running, prepare them and train them."""
        try:
            for cell in self.cells:
                self.begin_cell(cell)
            if self.begun:
                self.accelerator = make_accelerator(self.cells[0].config)
                reset_peak_memory(self.accelerator.device)
            for cell, record in list(self.begun.values()):
                self.prepare_cell(cell, record)
            if self.ready:
                self.train_ready()
        except (KeyboardInterrupt, SystemExit) as stop:
            taken()
            for cell, record in self.begun.values():
                with suppress(UserError):  # a record that cannot be written must not hide the others
                    lifecycle.end(cell, record, stop)
            raise
        except Exception as error:
            if self.may_fit_alone(error):
                log.info("out of memory: %d runs go on in smaller cohorts", len(self.begun))
            else:
                for cell, _ in list(self.begun.values()):
                    self.end_cell(cell, error)
        finally:
            for run in self.ready.values():
                run.tracker.finish(False)

    def begin_cell(self, cell: Cell) -> None:
        """Write the record of a run that starts now."""
        try:
            self.begun[cell.sha] = (cell, lifecycle.begin(cell))
        except UserError as error:
            self.outcomes[cell.sha] = Outcome(Status.FAILED, reason=one_line(error))

    def prepare_cell(self, cell: Cell, record: RunRecord) -> None:
        """Load the model and the data of a run."""
        try:
            self.ready[cell.sha] = lifecycle.prepare(cell, record, self.accelerator, shared=len(self.cells) > 1)
        except Exception as error:
            if self.may_fit_alone(error):
                raise
            self.end_cell(cell, error)

    def train_ready(self) -> None:
        """Train the runs that are ready: in cohorts of as many as fit, or one after another if they cannot be stacked."""
        if len(self.cells) > 1:
            try:
                for cohort in cohorts_that_fit(list(self.ready.values()), self.accelerator):
                    self.train_runs(cohort, CohortStep(self.accelerator))
                return
            except CohortUnsupported as unfit:
                log.info("%d runs train one after another: %s", len(self.ready), unfit)
        for run in list(self.ready.values()):
            run.cohort = None
            self.train_runs([run], SoloStep(run, self.accelerator))

    def train_runs(self, runs: Sequence[Run], step: Step) -> None:
        """Train runs in lock-step, or one alone."""
        title = runs[0].cell.run_id
        if len(runs) > 1:
            title = f"{len(runs)} runs of {runs[0].config.task.name} together"
        log.info("training %s", title)
        with show_progress(title) as on_step:
            train(runs, step, self.end_run, on_step, lambda ended: log.info("%s", epoch_of(ended)))

    def end_run(self, run: Run) -> None:
        """Take a run that has finished or failed to its end."""
        error: Exception | None = run.failure
        if error is None:
            try:
                lifecycle.complete(run, self.accelerator)
            except Exception as late:
                error = late
        self.end_cell(run.cell, error)

    def end_cell(self, cell: Cell, error: Exception | None) -> None:
        """Write a run's last record and its outcome."""
        record = self.begun[cell.sha][1]
        with shielded():  # a signal must find the record, the tracker and this object in agreement
            try:
                lifecycle.end(cell, record, error)
            except UserError as unwritable:
                # As on a full disk: the record on disk stays `running`, and the outcome gives the reason.
                error, record.error = unwritable, one_line(unwritable)
            del self.begun[cell.sha]
            if (run := self.ready.pop(cell.sha, None)) is not None:
                run.tracker.finish(error is None)
        if error is None:
            self.outcomes[cell.sha] = Outcome(Status.DONE, record)
        else:
            self.outcomes[cell.sha] = Outcome(Status.FAILED, reason=f"{cell.run_id} failed: {record.error}")

    def may_fit_alone(self, error: Exception) -> bool:
        """Tell whether an error may be absent when fewer runs train together."""
        return len(self.cells) > 1 and lifecycle.is_out_of_memory(error)


def epoch_of(runs: Sequence[Run]) -> str:
    """Return the line about the epoch that runs have just ended together, or one alone."""
    config, state = runs[0].config, runs[0].state
    alone = f"{config.task.name} {runs[0].cell.label} seed {config.seed}"
    name = alone if len(runs) == 1 else f"{len(runs)} runs of {config.task.name}"
    figures = epoch_figures([run.state.epochs[-1] for run in runs])
    left = state.seconds * len(runs) / state.step * (runs[0].total - state.step)
    return epoch_line(name, state.epoch, config.train.epochs, figures, left)
