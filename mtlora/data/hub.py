"""Rows from the Hugging Face hub, and the identity of their content."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtlora.base.errors import UserError
from mtlora.config.schema import TaskConfig
from mtlora.data.cache import cache_key
from mtlora.data.contexts import Sentence
from mtlora.data.files import content_digest
from mtlora.data.table_files import parse_label
from mtlora.data.text_files import HUB_FORMATS


class NotDownloaded(UserError):
    """A task's data must be downloaded before its runs have an identity."""

    def __init__(self, task: TaskConfig) -> None:
        super().__init__(
            f"task {task.name}: {task.hub.path} is read from the branch {task.hub.revision}, whose content may "
            f"change, so its files must be on this machine before a run can be planned: "
            f"run `make download SUITE={task.suite} PROFILE=paper` first"
        )
        self.task = task


def content_of(task: TaskConfig, split: str) -> str:
    """Return the identity of a split's content: the pinned commit, or for a parquet export a hash of its files.

    Raises:
        NotDownloaded: the revision is a branch, and its files are not in the hub's cache on this machine.
        UserError: the task is not on the hub, or a table is read from a branch.
    """
    if "" in (task.hub.path, task.hub.name, task.hub.revision):
        raise UserError(f"task {task.name} is not on the hub: use data.source=local or data.source=builtin")
    if re.fullmatch("[0-9a-f]{40}", task.hub.revision):
        return f"{task.hub.path}/{task.hub.name}@{task.hub.revision}"
    if task.hub.format == "table":
        raise UserError(
            f"task.hub.revision={task.hub.revision} of {task.name} can move: name a commit, 40 hexadecimal digits"
        )
    files = _cached_files(task, split)
    if not files:
        raise NotDownloaded(task)
    return cache_key(*map(content_digest, files))


def read_columns(task: TaskConfig, split: str) -> dict[str, list[Any]]:
    """Return the text columns and `label` of a classification or regression task, as `table_files.read_columns` does.

    Raises:
        UserError: the hub cannot be reached, or has other columns, classes or labels than the task; the message names the
            place.
    """
    where, rows = _where(task, split), _rows(task, split)
    names = [*task.text_columns, "label"]
    if missing := [name for name in names if name not in rows.column_names]:
        raise UserError(f"{where} has no column {missing[0]}: found {', '.join(rows.column_names)}")
    classes = getattr(rows.features["label"], "names", task.labels)
    if classes != task.labels:
        raise UserError(
            f"{where} has the classes {', '.join(classes)}, but conf/task/{task.name}.yaml has {', '.join(task.labels)}"
        )
    columns = {name: list(rows[name]) for name in names}
    columns["label"] = [parse_label(task, value, f"{where}, row {row}") for row, value in enumerate(columns["label"])]
    return columns


def read_sentences(task: TaskConfig, split: str) -> list[Sentence]:
    """Return the sentences of a data-to-text split.

    Raises:
        UserError: the hub cannot be reached, or has other columns than expected; the message names the place.
    """
    parse, rows = HUB_FORMATS[task.hub.format], _rows(task, split)
    try:
        return [sentence for row in rows for sentence in parse(row, task.lower_relation)]
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(
            f"{_where(task, split)} has other columns than expected ({error}): use data.source=local"
        ) from None


def _where(task: TaskConfig, split: str) -> str:
    return f"{task.hub.path}, {task.hub.name}, split {split}, revision {task.hub.revision}"


def _rows(task: TaskConfig, split: str) -> Any:
    """Return a split as a `datasets.Dataset`."""
    import datasets

    hub = task.hub
    try:
        with _quiet():
            if hub.format == "table":
                theirs = hub.splits.get(split, split)
                return datasets.load_dataset(hub.path, hub.name, revision=hub.revision, split=theirs)
            files = _cached_files(task, split) or _parquet_files(task, split)
    except Exception as error:  # network, repository, configuration and split errors share no base class
        raise UserError(
            f"cannot load {_where(task, split)} from the hub ({type(error).__name__}): check the network, or use "
            "data.source=local data.root=DIR"
        ) from error
    if not files:
        raise UserError(f"{_where(task, split)} has no parquet files: use data.source=local")
    import pyarrow.parquet as pq

    # Only the files that `content_of` hashes, even if the branch has others by now.
    return datasets.Dataset(datasets.table.InMemoryTable(pq.read_table(files)))


def _cached_files(task: TaskConfig, split: str) -> list[Path]:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _parquet_files(task, split, local_files_only=True)
    except LocalEntryNotFoundError:
        return []


def _parquet_files(task: TaskConfig, split: str, local_files_only: bool = False) -> list[Path]:
    """Return the files of a split; the hub's parquet export puts them below `CONFIGURATION/SPLIT/`."""
    import huggingface_hub

    pattern = f"{task.hub.name}/{task.hub.splits.get(split, split)}/*.parquet"
    folder = huggingface_hub.snapshot_download(
        task.hub.path,
        repo_type="dataset",
        revision=task.hub.revision,
        allow_patterns=[pattern],
        local_files_only=local_files_only,
    )
    return sorted(Path(folder).glob(pattern))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the hub's client, which would print a dozen lines about retries before our error of one line."""
    import huggingface_hub

    verbosity = huggingface_hub.logging.get_verbosity()
    huggingface_hub.logging.set_verbosity_error()
    try:
        yield
    finally:
        huggingface_hub.logging.set_verbosity(verbosity)
