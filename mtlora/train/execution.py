"""Train cells, one alone or several in lock-step; the record on disk and an answer tell the outcome of each."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress

from accelerate import Accelerator

from mtlora.base.cli import one_line
from mtlora.base.errors import CohortUnsupported, UserError
from mtlora.base.files import Busy, only_process
from mtlora.base.interrupt import shielded
from mtlora.base.processes import is_first, rank
from mtlora.base.progress import show_progress
from mtlora.plan.cell import Cell
from mtlora.records.record import RunRecord, record_status
from mtlora.train.answer import Answer, Status
from mtlora.train.cohort.fit import cohorts_that_fit
from mtlora.train.cohort.step import CohortStep
from mtlora.train.compute import make_accelerator
from mtlora.train.life import begin, complete, end, finished_record, is_out_of_memory, new_record, outcome_of, prepare
from mtlora.train.loop import Step, train
from mtlora.train.memory import reset_peak_memory
from mtlora.train.run import Run
from mtlora.train.step import SoloStep

log = logging.getLogger(__name__)


def execute(cells: Sequence[Cell]) -> list[Answer]:
    """Train cells, in lock-step if they are several, unless their records say success; the records tell the outcomes too.

    A run that fails leaves the others alone. Too little memory for all of them gives those that have not ended the answer
    `RETRY`: in a smaller cohort they go on from their checkpoints. Started by `torchrun`, every process of a run calls this.

    Args:
        cells: of one `grouping.cohort_key`.
    """
    if not is_first():
        return [_assist(cell) for cell in cells]
    answers: dict[str, Answer] = {}
    waiting = []
    with ExitStack() as locks:
        for cell in cells:
            try:
                locks.enter_context(_owned(cell))
                if (record := finished_record(cell)) is not None:
                    answers[cell.sha] = Answer(Status.DONE, record)
                else:
                    waiting.append(cell)
            except Busy as busy:
                answers[cell.sha] = Answer(Status.BUSY, reason=one_line(busy))
            except Exception as error:  # a finished run could not be scored again, or the folder cannot be written
                answers[cell.sha] = Answer(Status.FAILED, reason=outcome_of(error, cell.folder)[1])
        if waiting:
            Attempt(waiting, answers).run()
    return [answers.get(cell.sha, Answer(Status.RETRY)) for cell in cells]


def _owned(cell: Cell) -> AbstractContextManager[None]:
    """Hold a cell's lock.

    Raises:
        Busy: another process is training it.
    """
    return only_process(cell.lock, f"{cell.run_id} is being trained by another process: wait for it, or end it")


def _assist(cell: Cell) -> Answer:
    """Train as one of several processes; the first of them keeps the record and reports the outcome."""
    record = new_record(cell)
    if record_status(cell.folder) != "success":
        try:
            accelerator = make_accelerator(cell.config)
            run = prepare(cell, record, accelerator, shared=False)
            train([run], SoloStep(run, accelerator), lambda run: _complete_or_raise(run, accelerator))
        except Exception as error:
            reason = f"process {rank()} of {cell.run_id} ended: {' '.join(str(error).split())[:200]}"
            return Answer(Status.FAILED, reason=reason)
    return Answer(Status.DONE, record)


def _complete_or_raise(run: Run, accelerator: Accelerator) -> None:
    if run.failure is not None:
        raise run.failure
    complete(run, accelerator)


class Attempt:
    """One attempt at training cells together. Each of them ends with a record, also when the process is interrupted."""

    def __init__(self, cells: Sequence[Cell], answers: dict[str, Answer]) -> None:
        """Take the cells, which this process has locked, and the dictionary of answers by config_sha, which this fills."""
        self.cells, self.answers = cells, answers
        self.begun: dict[str, tuple[Cell, RunRecord]] = {}  # those that have not ended
        self.ready: dict[str, Run] = {}  # of these, those that can train

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
            for cell, record in self.begun.values():
                with suppress(UserError):  # a record that cannot be written must not hide the others
                    end(cell, record, stop)
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
            self.begun[cell.sha] = (cell, begin(cell))
        except UserError as error:
            self.answers[cell.sha] = Answer(Status.FAILED, reason=one_line(error))

    def prepare_cell(self, cell: Cell, record: RunRecord) -> None:
        """Load the model and the data of a run."""
        try:
            self.ready[cell.sha] = prepare(cell, record, self.accelerator, shared=len(self.cells) > 1)
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
            train(runs, step, self.end_run, on_step)

    def end_run(self, run: Run) -> None:
        """Take a run that has finished or failed to its end."""
        error: Exception | None = run.failure
        if error is None:
            try:
                complete(run, self.accelerator)
            except Exception as late:
                error = late
        self.end_cell(run.cell, error)

    def end_cell(self, cell: Cell, error: Exception | None) -> None:
        """Write a run's last record and its answer."""
        record = self.begun[cell.sha][1]
        with shielded():  # a signal must find the record, the tracker and this object in agreement
            try:
                end(cell, record, error)
            except (
                UserError
            ) as unwritable:  # as on a full disk: the record stays `running`, and the answer gives the reason
                error, record.error = unwritable, one_line(unwritable)
            del self.begun[cell.sha]
            if (run := self.ready.pop(cell.sha, None)) is not None:
                run.tracker.finish(error is None)
        if error is None:
            self.answers[cell.sha] = Answer(Status.DONE, record)
        else:
            self.answers[cell.sha] = Answer(Status.FAILED, reason=f"{cell.run_id} failed: {record.error}")

    def may_fit_alone(self, error: Exception) -> bool:
        """Tell whether fewer runs together may avoid an error."""
        return len(self.cells) > 1 and is_out_of_memory(error)
