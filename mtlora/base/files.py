"""Atomic writing of files that other processes may read at any moment, file locks, and reading with clear errors."""

import fcntl
import gzip
import io
import json
import logging
import os
import re
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
GZIP = b"\x1f\x8b\x08"  # the first bytes of a gzip file
HALF_A_PAIR = re.compile("[\ud800-\udfff]")


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
    (folder / ".writable").unlink(missing_ok=True)  # another command may have removed it


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
        raise UserError(
            f"cannot read {path} ({error.strerror or error}): correct the path, or its permissions"
        ) from None


def is_gzip(path: Path) -> bool:
    """Tell whether a file's name ends in `.gz` or its content starts as a gzip file."""
    with path.open("rb") as stream:
        return path.suffix == ".gz" or stream.read(len(GZIP)) == GZIP


def read_content(path: Path) -> bytes:
    """Return a file's bytes, decompressed if `is_gzip`.

    Raises:
        UserError: the file cannot be read or its gzip stream is damaged.
    """
    with readable(path):
        return gzip.decompress(path.read_bytes()) if is_gzip(path) else path.read_bytes()


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text (with or without a byte-order mark), decompressed as by `read_content`.

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
    """Yield each line with its number, from 1, without the blank lines at the end of the file.

    Only line feeds separate lines, unlike in `str.splitlines` (U+2028 is text).
    """
    lines = text.split("\n")
    while lines and not lines[-1].strip(" \r"):
        lines.pop()
    for number, line in enumerate(lines, start=1):
        yield number, line.removesuffix("\r")


def parse_json(text: str, place: str) -> Any:
    """Return the value of a JSON text from a file.

    Raises:
        UserError: it is not JSON; the message starts with `place`.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not a JSON value ({error}): repair or remove it") from None


def checked_text(value: Any, name: str, may_have_nul: bool = False) -> str:
    """Return a text that was read from a file or from the hub.

    Args:
        value: the value that should be a text.
        name: its name, for the message.
        may_have_nul: accept NUL, which a model can write; in a data file it comes from a damaged block.

    Raises:
        ValueError: it is not a text, or holds half of a surrogate pair (`"\\ud83d"` in JSON, which cannot be encoded) or NUL.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} is {json.dumps(value, default=repr)[:80]}, not a text")
    if "\0" in value and not may_have_nul:
        raise ValueError(f"{name} has a NUL character")
    if half := HALF_A_PAIR.search(value):
        raise ValueError(f"{name} has half of a surrogate pair, \\u{ord(half[0]):x}, which is no character")
    return value


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files below a folder that match a pattern of `Path.rglob`, in a fixed order.

    Hidden files and those in hidden folders are left out: macOS's `._x` beside each `x` of an archive, `.ipynb_checkpoints`,
    `.snapshot`.
    """
    found = folder.rglob(pattern)
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def whole_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """Return the whole lines of a growing text file from a byte offset on, and the offset behind them."""
    with path.open("rb") as stream:
        stream.seek(offset)
        text = stream.read()
    whole = text[: text.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace").splitlines(), offset + len(whole)
