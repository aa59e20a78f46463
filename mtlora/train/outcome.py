"""`Outcome`: how an attempt to train a cell ended."""

from dataclasses import dataclass
from enum import StrEnum

from mtlora.base.errors import UserError
from mtlora.base.files import Busy
from mtlora.records.record import RunRecord


class Status(StrEnum):
    """How the attempt to train a cell ended."""

    DONE = "done"  # there is a finished record
    FAILED = "failed"  # the record, if there is one, holds the same reason
    BUSY = "busy"  # another process is training it
    RETRY = "retry"  # a smaller cohort may succeed, for example if the memory was too small


@dataclass(frozen=True)
class Outcome:
    """The outcome of an attempt: `record` if it is done, `reason` in one line if it failed or is busy."""

    status: Status
    record: RunRecord | None = None
    reason: str = ""

    def result(self) -> RunRecord:
        """Return the record.

        Raises:
            Busy: another process is training the cell.
            UserError: it failed.
        """
        if self.record is None:
            raise Busy(self.reason) if self.status == Status.BUSY else UserError(self.reason)
        return self.record
