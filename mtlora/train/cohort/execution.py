"""The life of the runs of a cohort: each has its lock, its record and its folder, as a run alone has."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import psutil
import torch
from accelerate import Accelerator

from mtlora.base.cli import one_line
from mtlora.base.errors import UserError
from mtlora.base.files import Busy
from mtlora.base.progress import show_progress
from mtlora.data.encoding import collate
from mtlora.plan.cell import Cell
from mtlora.records.record import RunRecord
from mtlora.train.answer import Answer, Status
from mtlora.train.cohort.grouping import CohortUnsupported, parts
from mtlora.train.cohort.training import train_together
from mtlora.train.compute import make_accelerator, to_device
from mtlora.train.loop import Run, train
from mtlora.train.memory import reset_peak_memory, saved_bytes
from mtlora.train.model.attention import ProductAttention
from mtlora.train.objectives import batch_loss
from mtlora.train.run import Prepared, begin, complete, end, execute, finished_record, owned, prepare

log = logging.getLogger(__name__)

# On a CPU larger batches are slower: the products gain nothing any more, and the activations leave the caches. MiniLM, one core,
# runs of 16 x 66 tokens: steps of 5 runs together took 57 s, of 2 or 3 54 s, of 1 or 2 50 s; of 16 x 53: 2 took 6% less than 1.
CPU_TOKENS = 2500
MEMORY_SHARE = 0.5  # of the memory that is free, for what the backward pass needs

Finish = Callable[[Cell, RunRecord, BaseException | None], None]


def execute_together(cells: Sequence[Cell]) -> list[Answer]:
    """Train cells in lock-step; the record on disk tells the outcome of each, as after `run.execute`.

    A run that fails leaves the others alone. What hits all of them, such as too little memory, leaves those that have not ended
    with the answer `RETRY`: the caller tries them again in smaller groups, where they go on from their checkpoints.
    """
    if len(cells) == 1:
        return [_alone(cells[0])]
    answers = {cell.sha: Answer(Status.RETRY) for cell in cells}
    with ExitStack() as locks:
        members = []
        for cell in cells:
            try:
                locks.enter_context(owned(cell))
                if (record := finished_record(cell)) is not None:
                    answers[cell.sha] = Answer(Status.DONE, record)
                else:
                    members.append(cell)
            except UserError as error:
                answers[cell.sha] = _answer_to(error)
        _train_members(members, answers)
    return [answers[cell.sha] for cell in cells]


def _alone(cell: Cell) -> Answer:
    try:
        return Answer(Status.DONE, execute(cell))
    except UserError as error:
        return _answer_to(error)


def _answer_to(error: UserError) -> Answer:
    return Answer(Status.BUSY if isinstance(error, Busy) else Status.FAILED, reason=one_line(error))


def _train_members(cells: Sequence[Cell], answers: dict[str, Answer]) -> None:
    if not cells:
        return
    accelerator = make_accelerator(cells[0].config)
    reset_peak_memory(accelerator.device)
    begun: dict[str, tuple[Cell, RunRecord]] = {}  # and not ended
    ready: dict[str, Prepared] = {}  # of these, the ones that can train

    def finish(cell: Cell, record: RunRecord, error: BaseException | None) -> None:
        prepared = ready.get(cell.sha)
        try:
            if error is None and prepared is not None:
                prepared.run.close(accelerator)
                complete(prepared, accelerator)
        except Exception as late:
            error = late
        ready.pop(cell.sha, None)  # only now: a signal before marks it as interrupted
        begun.pop(cell.sha, None)
        end(cell, record, error)
        if prepared is not None:
            prepared.run.tracker.finish(error is None)
        if error is None:
            answers[cell.sha] = Answer(Status.DONE, record)
        else:
            answers[cell.sha] = Answer(Status.FAILED, reason=f"{cell.run_id} failed: {record.error}")

    try:
        for cell in cells:
            try:
                record = begin(cell)
            except UserError as error:
                answers[cell.sha] = _answer_to(error)
                continue
            begun[cell.sha] = (cell, record)
            try:
                prepared = prepare(cell, record, accelerator, shared=True)
                prepared.run.model.to(accelerator.device)
                ready[cell.sha] = prepared
            except UserError as error:
                finish(cell, record, error)
        try:
            _train_groups(list(ready.values()), accelerator, finish)
        except CohortUnsupported as unfit:
            log.info("%d runs train one after another: %s", len(ready), unfit)
            for prepared in list(ready.values()):
                prepared.run.cohort = None
                failure: Exception | None = None
                try:
                    with show_progress(prepared.cell.run_id) as on_step:
                        train(prepared.run, accelerator, on_step)
                except UserError as error:
                    failure = error
                finish(prepared.cell, prepared.record, failure)
    except (KeyboardInterrupt, SystemExit) as stop:
        for cell, record in begun.values():
            end(cell, record, stop)
        for prepared in ready.values():
            prepared.run.tracker.finish(False)
        raise
    except Exception as error:  # of no single run
        reason = " ".join(str(error).split())[:200]
        log.info("%d runs go on in smaller groups (%s: %s)", len(ready), type(error).__name__, reason)
        for prepared in ready.values():
            prepared.run.tracker.finish(False)


def _train_groups(members: Sequence[Prepared], accelerator: Accelerator, finish: Finish) -> None:
    """Train the runs in cohorts of as many as fit; those of one seed, which draw the same masks, stay together."""
    if members:
        in_order = sorted(members, key=lambda prepared: prepared.run.config.seed)
        for part in parts(in_order, runs_that_fit(in_order[0].run, accelerator)):
            _train_cohort(part, accelerator, finish)


def _train_cohort(members: Sequence[Prepared], accelerator: Accelerator, finish: Finish) -> None:
    runs = [prepared.run for prepared in members]
    ids = [prepared.cell.run_id for prepared in members]
    cohort = {"id": hashlib.sha256(" ".join(ids).encode()).hexdigest()[:12], "runs": len(ids), "members": ids}
    for run in runs:
        run.cohort = cohort

    def end_of(run: Run, error: Exception | None) -> None:
        prepared = members[runs.index(run)]
        finish(prepared.cell, prepared.record, error)

    title = ids[0] if len(ids) == 1 else f"{len(ids)} runs of {members[0].cell.config.task.name} together"
    log.info("training %s", title)
    with show_progress(title) as on_step:
        train_together(runs, accelerator, end_of, on_step)


def runs_that_fit(run: Run, accelerator: Accelerator) -> int:
    """Return how many runs can train together: by memory, and on a CPU by what still makes them faster.

    Measured: the bytes that the forward pass of two of the run's longest rows keeps for the backward pass, with attention as two
    products, since cohorts drop from its weights.
    """
    t, data, device = run.config.train, run.data, accelerator.device
    lengths = data.train.lengths[data.train_rows]
    longest = data.train_rows[lengths.argsort()[-2:]]
    batch = collate(data.train, longest, data.pad_token_id, run.config.data.padding, run.config.data.max_length)
    run.model.train()
    on_device = to_device(batch, device)
    with accelerator.autocast(), ProductAttention():
        saved = saved_bytes(run.model, lambda: batch_loss(run.config, run.model, on_device))
    needed = saved / len(longest) * t.batch_size
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what an earlier cohort has left is free
        return max(1, int(MEMORY_SHARE * torch.cuda.mem_get_info(device)[0] / needed))
    by_memory = MEMORY_SHARE * psutil.virtual_memory().available / needed
    by_speed = CPU_TOKENS / (t.batch_size * lengths.mean())
    return max(1, int(min(by_memory, by_speed)))
