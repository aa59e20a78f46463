"""Files that other processes may read at any moment: they appear whole or not at all."""

import fcntl
import json
import logging
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mtlora.base.errors import UserError

log = logging.getLogger(__name__)

LOCK_ATTEMPTS = 10  # 20 ms apart


class Busy(UserError):
    """Another process holds a lock."""


@contextmanager
def replacing(path: Path, advice: str = "choose a writable folder with results=DIR") -> Iterator[IO[Any]]:
    """Open a temporary binary file beside `path`; on leaving without an error, fsync it and rename it to `path`.

    Raises:
        UserError: the folder cannot be written; the message ends in `advice`.
    """
    # Two processes may write the same cache file at once, so the name is unique.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}): {advice}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def only_process(path: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which is made if need be; the system frees it when the process ends.

    Raises:
        Busy: another process holds it (the message is `busy`).
        UserError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose a writable folder with results=DIR") from None
    with stream:
        try:
            for attempt in range(LOCK_ATTEMPTS):
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:  # it may be `is_held`, which asks by taking the lock for a moment
                    if attempt == LOCK_ATTEMPTS - 1:
                        raise Busy(busy) from None
                    time.sleep(0.02)
        except OSError:  # a file system without locks: go on, as nothing there can tell
            log.warning("%s cannot be locked: do not train the same run twice at once", path)
        yield


def is_held(path: Path) -> bool:
    """Tell whether another process holds the lock of `only_process`."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def require_writable(folder: Path) -> None:
    """Make a folder if need be.

    Raises:
        UserError: nothing can be written there.
    """
    with replacing(folder / ".writable"):
        pass
    (folder / ".writable").unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file through `replacing`."""
    with replacing(path) as stream:
        stream.write(text.encode())


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows))
