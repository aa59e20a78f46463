"""Readers of tables: GLUE's TSV files, and JSON lines."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtlora.base.errors import UserError
from mtlora.base.files import numbered_lines, read_text
from mtlora.config.schema import LocalFile, TaskConfig

Lines = Iterator[tuple[int, str]]

SCORE_RANGE = (0.0, 5.0)  # of a regression label (STS-B's similarity)


def read_columns(task: TaskConfig, file: LocalFile, path: Path) -> dict[str, list[Any]]:
    """Parse a file into the task's text columns (str) and `label` (class index, or score as a float).

    Raises:
        UserError: a row is broken, a label is unknown, or there are no rows; the message names the file and the line, if any.
    """
    names = [*task.text_columns, "label"]
    if missing := set(names) - set(file.columns.values()):
        raise UserError(
            f"conf/task/{task.name}.yaml maps no column of {file.file} to {sorted(missing)[0]}: add it to `columns`"
        )
    source_of = {column: source for source, column in file.columns.items()}
    sources = [source_of[name] for name in names]
    text = read_text(path)
    lines = numbered_lines(text) if text.strip("\r\n") else iter(())
    tsv = file.file.endswith(".tsv")
    rows = _tsv_rows(lines, sources, file.header, path) if tsv else _json_rows(lines, sources, path)
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
        UserError: the value is not a class of the task, or not a number from 0 to 5; the message starts with `where`.
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


def _tsv_rows(lines: Lines, sources: list[str], header: bool, path: Path) -> Iterator[tuple[int, list[str]]]:
    expected, positions = 0, []
    for number, line in lines:
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


def _json_rows(lines: Lines, sources: list[str], path: Path) -> Iterator[tuple[int, list[Any]]]:
    for number, line in lines:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not a JSON value ({error}): repair or remove the line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: a JSON object is expected, found {type(row).__name__}")
        if missing := [source for source in sources if source not in row]:
            raise UserError(f"{path}:{number}: no field {missing[0]}: found {', '.join(row)}")
        yield number, [row[source] for source in sources]
