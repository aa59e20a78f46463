"""Hashes of values and of files, equal in every process and on every machine."""

import functools
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from mtlora.base.files import is_gzip


def digest(values: Any) -> str:
    """Return the hexadecimal sha256 of values as JSON; the order of a dictionary's keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, allow_nan=False).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's content, decompressed as by `read_content`.

    The file is read again only after a change of its time or size.

    Raises:
        OSError: the file cannot be read.
        EOFError, zlib.error: its gzip stream is damaged (or gzip.BadGzipFile, an OSError).
    """
    state = path.stat()
    return _file_sha256(path, state.st_mtime_ns, state.st_size)


@functools.cache
def _file_sha256(path: Path, modified: int, size: int) -> str:
    with gzip.open(path) if is_gzip(path) else path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
