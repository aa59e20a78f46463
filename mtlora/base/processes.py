"""One run in several processes (`torchrun`, `accelerate launch`): who does which share, and who writes.

The first process alone keeps the record, the checkpoint and the tracker. Examples are dealt out one by one, so no process sees
one twice and nothing is padded with repeated examples.
"""

import os
from collections.abc import Iterable
from typing import TypeVar

Rows = TypeVar("Rows")  # a sequence or an array
Item = TypeVar("Item")


def rank() -> int:
    """Return this process's number, from 0, as the launcher gave it."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Tell whether this process writes."""
    return rank() == 0


def own_rows(rows: Rows) -> Rows:
    """Return the part of a sequence that falls to this process: every world_size-th element."""
    return rows[rank() :: world_size()]  # type: ignore[index, no-any-return]


def gather(items: Iterable[Item]) -> list[Item]:
    """Return the items of all processes, on every process."""
    own = list(items)
    if world_size() == 1:
        return own
    from accelerate.utils import gather_object  # with torch: seconds that the thin processes of a sweep need not pay

    return list(gather_object(own))
