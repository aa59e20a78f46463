"""The state of each cell of a plan, read from the records on disk."""

from contextlib import suppress

from mtlora.base.errors import UserError
from mtlora.base.files import is_held
from mtlora.plan.cell import Cell
from mtlora.plan.grid import Plan
from mtlora.records.record import RECORD, RunRecord, record_status


def statuses(plan: Plan) -> dict[str, str]:
    """Return every cell's state (see `state_of`) by config_sha, parents included."""
    return {cell.sha: state_of(cell) for stage in plan.stages for cell in stage}


def state_of(cell: Cell) -> str:
    """Return a cell's state: done, failed, running, interrupted, stale or missing."""
    status = record_status(cell.folder)
    if status == "running" and not is_held(cell.lock):
        return "interrupted"  # its process was killed
    if status is None:
        return "stale" if _has_stale(cell) else "missing"
    return {"success": "done"}.get(status, status)


def _has_stale(cell: Cell) -> bool:
    """Tell whether this run was finished before with other settings, data or code."""
    for path in cell.folder.parent.glob(f"seed{cell.config.seed}-*/{RECORD}"):
        with suppress(UserError):
            record = RunRecord.load(path)
            if record.status == "success" and record.profile == cell.config.profile:
                return True
    return False
