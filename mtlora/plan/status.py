"""The state of each cell of a plan, read from the records on disk."""

from contextlib import suppress
from enum import StrEnum
from functools import lru_cache

from mtlora.base.errors import UserError
from mtlora.base.files import is_held
from mtlora.plan.cell import Cell
from mtlora.plan.grid import Plan
from mtlora.records.predictions import read_predictions
from mtlora.records.record import PREDICTIONS, RECORD, RunRecord, record_status
from mtlora.score.compute import needing_java
from mtlora.score.generated import in_part
from mtlora.score.text import java_works

java_works_here = lru_cache(maxsize=1)(java_works)  # cached, because Java starts slowly


class State(StrEnum):
    """The state of a cell."""

    DONE = "done"  # trained, with every metric that this machine can compute
    MISSING = "missing"  # never started
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # stopped or killed: the next attempt resumes from its checkpoint
    FAILED = "failed"
    DIVERGED = "diverged"  # failed because a loss, a gradient or a prediction was not finite: it would fail again
    UNSCORED = "unscored"  # trained, but without a metric that this machine can compute


SETTLED = (State.DONE, State.DIVERGED)  # another attempt would change nothing


def statuses(plan: Plan) -> dict[str, State]:
    """Return every cell's state by config_sha, parents included."""
    return {cell.sha: state_of(cell) for stage in plan.stages for cell in stage}


def state_of(cell: Cell) -> State:
    """Return a cell's state."""
    status = record_status(cell.folder)
    if status is None:
        return State.MISSING
    if status == "success":
        return State.UNSCORED if lacking_metrics(cell) else State.DONE
    if status == "running" and not is_held(cell.lock):
        return State.INTERRUPTED  # its process was killed
    if status == "failed" and _diverged(cell):
        return State.DIVERGED
    return State(status)


def _diverged(cell: Cell) -> bool:
    with suppress(UserError):  # an unreadable record counts as failed
        return RunRecord.load(cell.folder / RECORD).diverged
    return False


def reason_of(cell: Cell, state: State) -> str:
    """Say why a cell is not done; of one that was never started, why its parent is not."""
    if state == State.MISSING:
        if cell.parent is not None and (above := state_of(cell.parent)) != State.DONE:
            return f"it starts from {cell.parent.run_id}, which is not done ({above}): {reason_of(cell.parent, above)}"
        return "no run was started"
    if state == State.RUNNING:
        return "another process is training it"
    if state == State.UNSCORED:
        return f"its texts were not scored again, so there is no {', '.join(lacking_metrics(cell))}"
    try:
        return RunRecord.load(cell.folder / RECORD).error or "it was killed"
    except UserError as error:  # an unreadable record must not prevent the table
        return str(error)


def lacking_metrics(cell: Cell) -> list[str]:
    """Return, in words, the metrics that a finished run lacks although this machine can compute them.

    A run that was scored on a machine without Java lacks the metrics that need it. They are not listed if this machine has no
    Java either, nor for a part of the test split without contexts.
    """
    task = cell.config.task
    if task.kind != "generation":
        return []
    record = RunRecord.load(cell.folder / RECORD)
    wanted = [(split, name) for split, names in task.metrics.items() for name in needing_java(names, task.scoring)]
    absent = [(split, name) for split, name in wanted if record.metric(name, split) is None]
    if not absent or not java_works_here():
        return []
    try:
        contexts, _ = read_predictions(cell.folder / PREDICTIONS)
    except UserError:
        return []  # without its texts, a run cannot be scored again
    parts = {split for split, _ in absent if any(in_part(task, context, split) for context in contexts)}
    return [f"{name} on {split}" for split, name in absent if split in parts]
