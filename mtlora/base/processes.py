"""One run in several processes (`torchrun`, `accelerate launch`): the rows of each process, and which process writes.

Only the first process writes the record and the checkpoint and has a tracker. Process k of n gets every n-th example from k on,
so no batch is filled up with repeated examples.
"""

import os
from collections.abc import Iterable
from typing import TypeVar

Rows = TypeVar("Rows")  # a sequence or an array
Item = TypeVar("Item")


def rank() -> int:
    """Return the number of this process, from 0, as set by the launcher."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Tell whether this process is the first one, which writes the files."""
    return rank() == 0


def own_rows(rows: Rows) -> Rows:
    """Return this process's part of a sequence: every world_size-th element."""
    return rows[rank() :: world_size()]  # type: ignore[index, no-any-return]


def gather(items: Iterable[Item]) -> list[Item]:
    """Return the items of all processes, on every process."""
    own = list(items)
    if world_size() == 1:
        return own
    from accelerate.utils import gather_object  # imports torch, which takes seconds

    return list(gather_object(own))
