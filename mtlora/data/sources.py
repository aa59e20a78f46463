"""The source of a task's rows: the hub, local files or the built-in data; no source silently replaces another.

Heavy packages are imported inside functions, because plans and tables call `fingerprint` and must start at once.
"""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

from mtlora.base.errors import UserError
from mtlora.config.schema import DataConfig, TaskConfig
from mtlora.data import hub
from mtlora.data.cache import cache_key
from mtlora.data.contexts import Sentence, contexts_of
from mtlora.data.files import content_digest, find_file
from mtlora.data.table_files import read_columns
from mtlora.data.text_files import read_sentences
from mtlora.records.predictions import Context

log = logging.getLogger(__name__)

TUNE = "tune"  # the evaluation split of tuning: a tenth of the training rows
# Raise them when the same files give other rows than before: all files, or those of data-to-text.
PARSER_VERSION = 1
TEXT_VERSION = 2


def load_split(task: TaskConfig, data: DataConfig, split: str) -> dict[str, list[Any]]:
    """Return one split as columns: the task's text columns (str) and `label` (int class index, or float score).

    A generation task has the columns `context`, `text` and `category` (str) instead.

    Raises:
        UserError: the source lacks the split, cannot be reached, or has a broken row; the message names the place.
    """
    if task.kind == "generation":
        sentences = _with_text(_sentences(task, data, split), f"{task.name}, {split}")
        return {name: [getattr(row, name) for row in sentences] for name in ("context", "text", "category")}
    if data.split == "tune":
        return _part_of_training(task, _columns(task, data, "train"), held_out=split == TUNE)
    return _columns(task, data, split)


def _with_text(sentences: Sequence[Sentence], where: str) -> list[Sentence]:
    """Leave out sentences whose text is blank, from which a model would learn to write nothing."""
    kept = [sentence for sentence in sentences if sentence.text.strip()]
    if left_out := [sentence.context for sentence in sentences if not sentence.text.strip()]:
        log.warning(
            "%s: left out %d of %d rows, whose text is blank; the first has the facts %r",
            where,
            len(left_out),
            len(sentences),
            left_out[0],
        )
    if not kept:
        raise UserError(f"{where}: each of the {len(sentences)} texts is blank: use data.source=local with other files")
    return kept


def _columns(task: TaskConfig, data: DataConfig, split: str) -> dict[str, list[Any]]:
    if data.source == "hub":
        return hub.read_columns(task, split, data.subset)
    return read_columns(task, *find_file(task, data, split))


def _part_of_training(task: TaskConfig, columns: dict[str, list[Any]], held_out: bool) -> dict[str, list[Any]]:
    """Return the training rows that tuning holds out, about a tenth, or the others.

    A hash of a row's texts decides, so that the choice is the same everywhere and repeated rows stay together.
    """
    rows = zip(*(columns[name] for name in task.text_columns), strict=True)
    tenth = [int.from_bytes(hashlib.sha256("\0".join(row).encode()).digest()[:8], "big") % 10 == 0 for row in rows]
    if not 0 < sum(tenth) < len(tenth):
        raise UserError(f"task {task.name} has too few training rows, {len(tenth)}, to hold out a tenth for tuning")
    return {
        name: [v for v, out in zip(values, tenth, strict=True) if out == held_out] for name, values in columns.items()
    }


def load_contexts(task: TaskConfig, data: DataConfig) -> list[Context]:
    """Return the contexts of the test split, in the order of their first occurrence, with their references.

    Raises:
        UserError: the source lacks the split, or a context has no text.
    """
    return contexts_of(_sentences(task, data, "test"), task.max_references)


def _sentences(task: TaskConfig, data: DataConfig, split: str) -> list[Sentence]:
    if data.source == "hub":
        return hub.read_sentences(task, split, data.subset)
    file, path = find_file(task, data, split)
    return read_sentences(path, file.format, task.lower_relation)


def evaluation_splits(task: TaskConfig, data: DataConfig) -> list[str]:
    """Return the evaluation splits that the source has, the split of the task's first metric first; warn of each missing one.

    Raises:
        UserError: the split of the task's first metric is missing.
    """
    available = _available_splits(task, data)
    for split in _wanted_splits(task, data):
        if split not in available:
            log.warning(
                "%s: no usable file for %s in data.root=%s: its metrics are absent", task.name, split, data.root
            )
    return available


def low_resource(task: TaskConfig, data: DataConfig) -> bool:
    """Return whether any split of the run is read from a file that holds only a part of the official split.

    With `source=hub` the answer is whether such a part is accepted.

    Raises:
        UserError: the training file or the first evaluation file is missing.
    """
    if data.source == "hub":
        return data.subset
    return any(
        find_file(task, data, _file_split(split))[0].subset for split in ["train", *_available_splits(task, data)]
    )


def data_commit(task: TaskConfig, data: DataConfig) -> str | None:
    """Return the `repository/configuration@commit` that a run reads; None if its source is not the hub."""
    return hub.content_of(task, "train") if data.source == "hub" else None


def fingerprint(task: TaskConfig, data: DataConfig) -> str:
    """Return a hash of the content of every split that a run reads, and of the names of these splits.

    It depends neither on the place of the files nor on their compression. For the hub see `hub.content_of`.

    Raises:
        UserError: the training file or the first evaluation file is missing.
    """
    splits = ["train", *_available_splits(task, data)]
    return cache_key(PARSER_VERSION, [[split, split_fingerprint(task, data, split)] for split in splits])


def split_fingerprint(task: TaskConfig, data: DataConfig, split: str) -> str:
    """Return a hash of the content of one split; see `fingerprint`."""
    split = _file_split(split)
    if data.source == "hub":
        content = hub.content_of(task, split)
        return cache_key(content, TEXT_VERSION) if task.kind == "generation" else content
    file, path = find_file(task, data, split)
    if file.format != "table":
        return cache_key(content_digest(path), file.format, TEXT_VERSION)
    return cache_key(content_digest(path), file.header, file.columns)


def _file_split(split: str) -> str:
    """Return the split whose file holds the rows of `split`."""
    return "train" if split == TUNE else split


def _wanted_splits(task: TaskConfig, data: DataConfig) -> list[str]:
    if task.kind != "generation":
        return list(task.metrics)
    # The metrics of a generation task name parts of the test split (test_S, ...); its loss is computed on validation.
    return ["test", "validation"] if data.split == "full" else ["validation"]


def _available_splits(task: TaskConfig, data: DataConfig) -> list[str]:
    first, *others = _wanted_splits(task, data)
    if data.source == "hub":
        return [first, *others]
    find_file(task, data, _file_split(first))
    return [first, *(split for split in others if _has_file(task, data, split))]


def _has_file(task: TaskConfig, data: DataConfig, split: str) -> bool:
    try:
        find_file(task, data, split)
    except UserError:
        return False
    return True
