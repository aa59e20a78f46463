"""Readers of tables: GLUE's TSV files, and JSON lines."""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mtlora.base.errors import UserError
from mtlora.base.files import checked_text, numbered_lines, parse_json, read_text
from mtlora.config.schema import LocalFile, TaskConfig

log = logging.getLogger(__name__)

MOST_CUT_ROWS = 100  # QQP has a handful of them
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
    rows = (_tsv_rows if file.file.endswith(".tsv") else _json_rows)(read_text(path), sources, file, path)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for line, values in rows:
        for name, value in zip(names, checked_row(task, values, sources, f"{path}:{line}"), strict=True):
            columns[name].append(value)
    if not columns["label"]:
        raise UserError(f"{path} has no rows: the split is empty")
    return columns


def check_columns(task: TaskConfig, columns: dict[str, list[Any]], where: str) -> dict[str, list[Any]]:
    """Return columns of another source after the check of `checked_row`; its message names `where` and the row, from 0."""
    names = [*task.text_columns, "label"]
    rows = enumerate(zip(*(columns[name] for name in names), strict=True))
    checked = [checked_row(task, values, names, f"{where}, row {row}") for row, values in rows]
    return {name: [row[place] for row in checked] for place, name in enumerate(names)}


def checked_row(task: TaskConfig, values: Sequence[Any], names: Sequence[str], where: str) -> list[Any]:
    """Return the texts and the parsed label of one row of any source.

    One text of a pair may be blank, as in QQP, but not all texts of a row.

    Args:
        values: the texts in the order of `task.text_columns`, then the label.
        names: what the source calls them.
        where: the place of the row.

    Raises:
        UserError: a value is no text, all texts are blank, or the label is unknown.
    """
    *texts, label = values
    try:
        texts = [checked_text(text, name) for text, name in zip(texts, names, strict=False)]
    except ValueError as error:
        raise UserError(f"{where}: {error}: repair the line") from None
    if not any(map(str.strip, texts)):
        raise UserError(f"{where}: {' and '.join(names[:-1])} blank: repair or remove the line")
    return [*texts, parse_label(task, label, where)]


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


def _tsv_rows(text: str, sources: list[str], file: LocalFile, path: Path) -> Iterator[tuple[int, list[str]]]:
    number, expected, positions = 0, 0, list[int]()
    short: list[int] = []  # numbers of the lines that are left out
    for number, line in numbered_lines(text):
        fields = line.split("\t")  # no quoting: quote characters are text
        if number == 1:
            expected, positions = len(fields), _positions(fields, sources, file.header, path)
            if file.header:
                continue
        if file.cut_rows and len(fields) < expected:
            short.append(number)
            continue
        if len(fields) != expected:
            raise UserError(f"{path}:{number}: {len(fields)} fields, expected {expected}: repair or remove the line")
        yield number, [fields[position] for position in positions]
    if len(short) > MOST_CUT_ROWS:
        raise UserError(
            f"{path}: {len(short)} lines have too few fields (the first is line {short[0]}): fetch it again"
        )
    if short and short[-1] == number and not text.endswith("\n"):
        raise UserError(f"{path}:{number}: the file ends inside this line: fetch it again")
    if short:
        log.warning(
            "%s: left out %d lines with too few fields, rows that a line break inside a text cuts in two (the first is line %d)",
            path,
            len(short),
            short[0],
        )


def _positions(fields: list[str], sources: list[str], header: bool, path: Path) -> list[int]:
    names = fields if header else [str(index) for index in range(len(fields))]
    if missing := [source for source in sources if source not in names]:
        raise UserError(f"{path}:1: no column {missing[0]}: found {len(fields)} columns ({', '.join(names)})")
    return [names.index(source) for source in sources]


def _json_rows(text: str, sources: list[str], file: LocalFile, path: Path) -> Iterator[tuple[int, list[Any]]]:
    for number, line in numbered_lines(text):
        row = parse_json(line, f"{path}:{number}")
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: a JSON object is expected, found {type(row).__name__}")
        if missing := [source for source in sources if source not in row]:
            raise UserError(f"{path}:{number}: no field {missing[0]}: found {', '.join(row)}")
        yield number, [row[source] for source in sources]
