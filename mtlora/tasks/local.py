"""Local data files: which file holds a split, and what its rows say.

Understands GLUE's own layout and folders that mix it with JSON lines; gzip is transparent.
"""

import functools
import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtlora.config import DataConfig, LocalFile, TaskConfig
from mtlora.errors import UserError

SCORE_RANGE = (0.0, 5.0)  # of a regression label (STS-B's similarity)


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
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                return stream.read()
        return path.read_bytes()
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
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()
    state = path.stat()
    return _digest(path, state.st_mtime_ns, state.st_size)


@functools.cache
def _digest(path: Path, modified: int, size: int) -> str:
    # `modified` and `size` are only there to forget the digest of a file that has changed meanwhile.
    return hashlib.sha256(read_content(path)).hexdigest()


def read_columns(task: TaskConfig, file: LocalFile, path: Path) -> dict[str, list[Any]]:
    """Parse a file into the task's text columns (str) and `label` (class index, or score as a float).

    Raises:
        UserError: a row is broken, a label is unknown, or there are no rows; the message names file and line.
    """
    names = [*task.text_columns, "label"]
    if missing := set(names) - set(file.columns.values()):
        raise UserError(f"conf/task/{task.name}.yaml does not say which column of {file.file} is {sorted(missing)[0]}")
    source_of = {column: source for source, column in file.columns.items()}
    sources = [source_of[name] for name in names]
    text = read_text(path)
    rows = (
        _tsv_rows(text, sources, file.header, path) if file.file.endswith(".tsv") else _json_rows(text, sources, path)
    )
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for line, values in rows:
        for name, value in zip(names, values, strict=True):
            if name == "label":
                value = parse_label(task, value, f"{path}:{line}")
            elif not isinstance(value, str):
                raise UserError(f"{path}:{line}: {source_of[name]} is {json.dumps(value)}, not a text: repair the line")
            columns[name].append(value)
    if not columns["label"]:
        raise UserError(f"{path} has no rows: the split is empty")
    return columns


def parse_label(task: TaskConfig, value: Any, where: str) -> int | float:
    """Return the class index of a class name or index, or the score of a regression task.

    Raises:
        UserError: the value is no class of the task, or no number from 0 to 5; `where` says where it was read.
    """
    if task.kind == "classification":
        if isinstance(value, str) and value in task.labels:
            return task.labels.index(value)
        indices = {str(index): index for index in range(len(task.labels))}
        if str(value) in indices:
            return indices[str(value)]
        allowed = ", ".join([*task.labels, *indices])
        raise UserError(f"{where}: label {value!r} is unknown: {task.name} has {allowed}")
    low, high = SCORE_RANGE
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not low <= score <= high:
        raise UserError(f"{where}: score {value!r} is not a number from {low:g} to {high:g}")
    return score


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


def _tsv_rows(text: str, sources: list[str], header: bool, path: Path) -> Iterator[tuple[int, list[str]]]:
    if not text.strip("\r\n"):
        return
    expected, positions = 0, []
    for number, line in numbered_lines(text):
        fields = line.split("\t")  # no quoting: quote characters are text
        if number == 1:
            expected, positions = len(fields), _positions(fields, sources, header, path)
            if header:
                continue
        if len(fields) != expected:
            raise UserError(f"{path}:{number}: {len(fields)} fields, expected {expected}: repair or remove the line")
        yield number, [fields[position] for position in positions]


def _positions(fields: list[str], sources: list[str], header: bool, path: Path) -> list[int]:
    names = fields if header else [str(index) for index in range(len(fields))]
    if missing := [source for source in sources if source not in names]:
        raise UserError(f"{path}:1: no column {missing[0]}: found {len(fields)} columns ({', '.join(names)})")
    return [names.index(source) for source in sources]


def _json_rows(text: str, sources: list[str], path: Path) -> Iterator[tuple[int, list[Any]]]:
    if not text.strip("\r\n"):
        return
    for number, line in numbered_lines(text):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not a JSON value ({error}): repair or remove the line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: a JSON object is expected, found {type(row).__name__}")
        if missing := [source for source in sources if source not in row]:
            raise UserError(f"{path}:{number}: no field {missing[0]}: found {', '.join(row)}")
        yield number, [row[source] for source in sources]
