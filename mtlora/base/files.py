"""Atomic writing of files that other processes may read at any moment, file locks, and reading with clear errors."""

import fcntl
import gzip
import io
import json
import logging
import os
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mtlora.base.errors import UserError

log = logging.getLogger(__name__)

LOCK_ATTEMPTS = 10  # 20 ms apart


class Busy(UserError):
    """Another process holds a lock."""


class _Target(io.FileIO):
    """A new file that keeps its first OSError, because a library that writes to it may raise another error instead."""

    error: OSError | None = None

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Keep an OSError of the block."""
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            raise

    def write(self, data: Any, /) -> int:
        """Write bytes; return how many were written."""
        with self.noting():
            return super().write(data)


@contextmanager
def replacing(path: Path, advice: str = "choose a writable folder with results=DIR") -> Iterator[IO[Any]]:
    """Open a temporary binary file beside `path`; on leaving without an error, fsync it and rename it to `path`.

    Raises:
        UserError: the file cannot be made, written or renamed; the message ends in `advice`. Other errors of the block
            pass through as they are.
    """
    # Two processes may write the same cache file at once, so the name is unique.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        target = _Target(temporary, "x")
    except OSError as error:
        raise _unwritable(path, error, advice) from None
    try:
        with io.BufferedWriter(target) as stream:
            yield stream
            stream.flush()
            with target.noting():
                os.fsync(target.fileno())
        with target.noting():
            os.replace(temporary, path)
    except Exception:
        if target.error is None:
            raise
        raise _unwritable(path, target.error, advice) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _unwritable(path: Path, error: OSError, advice: str) -> UserError:
    return UserError(f"cannot write {path} ({error.strerror or error}): {advice}")


@contextmanager
def only_process(path: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, created if necessary; the system releases it when the process ends.

    Raises:
        Busy: another process holds it (the message is `busy`).
        UserError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    except OSError as error:
        raise _unwritable(path, error, "choose a writable folder with results=DIR") from None
    with stream:
        try:
            for attempt in range(LOCK_ATTEMPTS):
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:  # `is_held` takes the lock for a moment, too
                    if attempt == LOCK_ATTEMPTS - 1:
                        raise Busy(busy) from None
                    time.sleep(0.02)
        except OSError:  # a file system without locks
            log.warning("%s cannot be locked: do not train the same run twice at once", path)
        yield


def is_held(path: Path) -> bool:
    """Return whether another process holds the lock of `only_process`."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def sync(path: Path) -> None:
    """Wait until the content of a file is on the disk (fsync)."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def require_writable(folder: Path) -> None:
    """Create a folder if necessary.

    Raises:
        UserError: no file can be written there.
    """
    with replacing(folder / ".writable"):
        pass
    (folder / ".writable").unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file through `replacing`."""
    with replacing(path) as stream:
        stream.write(text.encode())


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as one JSON object per line, atomically."""
    write_text(path, "".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise a UserError instead of an error of reading a file, which is damaged or cannot be read."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}): fetch it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def read_content(path: Path) -> bytes:
    """Return a file's bytes, decompressed if its name ends in `.gz`.

    Raises:
        UserError: the file cannot be read or its gzip stream is damaged.
    """
    with readable(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        return stream.read()


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text (with or without a byte-order mark), decompressed if its name ends in `.gz`.

    Raises:
        UserError: the file cannot be read, or has a byte that is not UTF-8; the message names its line.
    """
    content = read_content(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8 text: convert the file"
        ) from None


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line with its number, from 1; only line feeds separate lines, unlike in `str.splitlines` (U+2028 is text)."""
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        yield number, line.removesuffix("\r")


def whole_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """Return the whole lines of a growing text file from a byte offset on, and the offset behind them."""
    with path.open("rb") as stream:
        stream.seek(offset)
        text = stream.read()
    whole = text[: text.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace").splitlines(), offset + len(whole)
