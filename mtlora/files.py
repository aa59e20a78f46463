"""Files that other processes may read at any moment: they appear whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mtlora.errors import UserError


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


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file through `replacing`."""
    with replacing(path) as stream:
        stream.write(text.encode())
