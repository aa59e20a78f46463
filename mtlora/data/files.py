"""Local data files: which file holds a split, and what its rows say.

Understands GLUE's own layout and folders that mix it with JSON lines; gzip is transparent.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtlora.base.errors import UserError
from mtlora.base.hashing import digest, file_sha256
from mtlora.config.schema import DataConfig, LocalFile, TaskConfig


def find_file(task: TaskConfig, data: DataConfig, split: str) -> tuple[LocalFile, Path]:
    """Return the first candidate of a split that exists, and its path (with `.gz` if the file is compressed).

    Raises:
        UserError: no candidate exists, or only one that `data.subset` does not allow.
    """
    file, path = _first_existing(task, data, split)
    if not file.subset:
        return file, path
    if not data.subset:
        raise UserError(
            f"{path} holds only a part of the {split} split of {task.name}: "
            "add data.subset=true to use it (the run is then labelled low-resource)"
        )
    if split != "train":
        train, train_path = _first_existing(task, data, "train")
        if not train.subset:
            raise UserError(
                f"{path} is held out from a smaller training file, but {train_path} is the full one and contains it: "
                f"add the official {split} file {task.local[split][0].file}"
            )
    return file, path


def _first_existing(task: TaskConfig, data: DataConfig, split: str) -> tuple[LocalFile, Path]:
    if data.root is None:
        raise UserError("data.source=local needs data.root=DIR, the folder that holds the suite's files")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise UserError(f"data.root={data.root} is not a folder: name the folder that holds the suite's files")
    if not task.local.get(split):
        raise UserError(
            f"task {task.name} declares no local file for split {split}: add one to conf/task/{task.name}.yaml"
        )
    tried = []
    for file in task.local[split]:
        for name in (file.file, f"{file.file}.gz"):
            if (root / name).is_file() or (file.format == "webnlg_xml" and (root / name).is_dir()):
                return file, root / name
            tried.append(name)
    raise UserError(f"no file for split {split} of {task.name} in data.root={data.root}: looked for {', '.join(tried)}")


def read_content(path: Path) -> bytes:
    """Return a file's bytes, decompressed if its name ends in `.gz`.

    Raises:
        UserError: the file cannot be read or its gzip stream is damaged.
    """
    with _readable(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        return stream.read()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}): fetch it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def xml_files(path: Path) -> list[Path]:
    """Return the XML files of a folder at any depth, in a fixed order, or the file itself."""
    return sorted(path.rglob("*.xml")) if path.is_dir() else [path]


def content_digest(path: Path) -> str:
    """Return the sha256 of `read_content(path)`; a compressed file and its plain copy have the same one.

    For a folder it covers the relative names and the contents of its XML files.
    """
    if path.is_dir():
        files = [(str(file.relative_to(path)), content_digest(file)) for file in xml_files(path)]
        return digest(files)
    with _readable(path):
        return file_sha256(path)


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
    """Yield each line with its number from 1; only line feeds end one, unlike in `str.splitlines` (U+2028 is text)."""
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        yield number, line.removesuffix("\r")
