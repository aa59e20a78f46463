"""Rows from the Hugging Face hub: the parquet files of one configuration and split at one commit.

The files are not found by `datasets.load_dataset`, for two reasons: without access to the hub it silently takes another cached
revision, and on the branch `refs/convert/parquet` it finds no configuration by name. `datasets` only decodes the features that
the files or the data set card declare.
"""

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mtlora.base.errors import UserError
from mtlora.base.hub import COMMIT, Choice, Repository, Snapshot, is_damaged
from mtlora.base.messages import command, same_command
from mtlora.config.schema import TaskConfig
from mtlora.data.contexts import Sentence
from mtlora.data.table_files import check_columns
from mtlora.data.text_files import HUB_FORMATS, malformed

CARD = "README.md"  # names the classes where the files do not


class NotDownloaded(UserError):
    """A task's data must be downloaded before its runs have an identity."""

    def __init__(self, task: TaskConfig) -> None:
        super().__init__(
            f"task {task.name}: {task.hub.path} is read from the branch {task.hub.revision}, whose content may "
            f"change, so its files must be on this machine before a run can be planned: "
            f"run `{command('download', task.suite, 'profile=paper')}` first"
        )
        self.task = task


def content_of(task: TaskConfig, split: str) -> str:
    """Return the identity of a split's content, `repository/configuration@commit`; it asks no hub.

    Raises:
        NotDownloaded: the revision is a branch, and its files are not on this machine.
        UserError: the task is not on the hub.
    """
    repository = _repository(task)
    if COMMIT.fullmatch(task.hub.revision):
        commit = task.hub.revision
    elif (snapshot := repository.local(_wanted(task, [split]))) is not None:
        commit = snapshot.commit
    else:
        raise NotDownloaded(task)
    return f"{task.hub.path}/{task.hub.name}@{commit}"


def fetch(task: TaskConfig, splits: Sequence[str]) -> None:
    """Fetch the files of splits, at the commit that a branch has now.

    Raises:
        UserError: the hub or the disk refuses, or the repository has no such configuration or split.
    """
    _fetched(task, splits)


def read_columns(task: TaskConfig, split: str, subset: bool = False) -> dict[str, list[Any]]:
    """Return the text columns and `label` of a classification or regression task, as `table_files.read_columns` does.

    Args:
        task: its `hub` names the repository.
        split: the split's name.
        subset: accept fewer rows than the task declares.

    Raises:
        UserError: the split cannot be fetched, or has other columns, classes, labels or another number of rows than the task, or
            a row without a text; the message names the place.
    """
    import datasets

    where, snapshot = _where(task, split), _snapshot(task, split)
    rows = _rows(task, split, snapshot)
    names = [*task.text_columns, "label"]
    if missing := [name for name in names if name not in rows.column_names]:
        raise UserError(f"{where} has no column {missing[0]}: found {', '.join(rows.column_names)}")
    label = datasets.Features.from_arrow_schema(rows.schema)["label"]
    classes = getattr(label, "names", None) or _classes_of_card(task, snapshot.folder)
    if classes not in (None, task.labels):
        raise UserError(
            f"{where} has the classes {', '.join(classes)}, but conf/task/{task.name}.yaml has {', '.join(task.labels)}"
        )
    columns = check_columns(task, {name: rows[name].to_pylist() for name in names}, where)
    _check_size(task, split, len(columns["label"]), subset)
    return columns


def read_sentences(task: TaskConfig, split: str, subset: bool = False) -> list[Sentence]:
    """Return the sentences of a data-to-text split.

    Args:
        task: its `hub` names the repository.
        split: the split's name.
        subset: accept fewer texts (of the test split, contexts) than the task declares.

    Raises:
        UserError: the split cannot be fetched, or has other columns or another number of texts than expected, or a row without a
            text; the message names the place.
    """
    where, parse, sentences = _where(task, split), HUB_FORMATS[task.hub.format], list[Sentence]()
    for number, row in enumerate(_rows(task, split, _snapshot(task, split)).to_pylist()):
        with malformed(f"{where}, row {number}", task.hub.format):
            sentences += parse(row, task.lower_relation)
    _check_size(task, split, len({s.context for s in sentences}) if split == "test" else len(sentences), subset)
    return sentences


def _repository(task: TaskConfig) -> Repository:
    hub = task.hub
    if "" in (hub.path, hub.name, hub.revision):
        raise UserError(f"task {task.name} is not on the hub: use data.source=local or data.source=builtin")
    return Repository("dataset", hub.path, hub.revision, "task.hub.revision", "data.source=local data.root=DIR")


def _where(task: TaskConfig, split: str) -> str:
    return f"{task.hub.path}, {task.hub.name}, split {split}, revision {task.hub.revision}"


def _parquet(task: TaskConfig, split: str, names: Sequence[str]) -> list[str]:
    """Return the files of a split: `CONFIGURATION/SPLIT-00000-of-00001.parquet`, or `CONFIGURATION/SPLIT/0000.parquet`."""
    stem = re.escape(f"{task.hub.name}/{task.hub.splits.get(split, split)}")
    found = {name: re.fullmatch(rf"{stem}(?:-\d+-of-(\d+)(?:-\w+)?|/\d+)\.parquet", name) for name in names}
    files = sorted(name for name, match in found.items() if match)
    declared = [int(match[1]) for match in found.values() if match and match[1]]
    return files if not declared or len(files) == declared[0] else []  # a part of a split is none


def _wanted(task: TaskConfig, splits: Sequence[str]) -> Choice:
    """Return the choice of the files of all these splits, and of the card."""

    def choose(names: Sequence[str]) -> list[str]:
        files = [_parquet(task, split, names) for split in splits]
        return [*chain(*files), *(name for name in names if name == CARD)] if all(files) else []

    return choose


def _snapshot(task: TaskConfig, split: str) -> Snapshot:
    """Return the snapshot with a split's files, fetched if they are not here."""
    return _repository(task).local(_wanted(task, [split])) or _fetched(task, [split])


def _fetched(task: TaskConfig, splits: Sequence[str]) -> Snapshot:
    snapshot = _repository(task).fetch(_wanted(task, splits))
    if not snapshot.files:
        split = next(split for split in splits if not _parquet(task, split, snapshot.names))
        folders = sorted({name.split("/")[0] for name in snapshot.names if name.endswith(".parquet")})
        theirs = sorted(name for name in snapshot.names if name.startswith(f"{task.hub.name}/"))
        found = f"of {task.hub.name} it has {', '.join(theirs)}" if theirs else f"it has {', '.join(folders) or 'none'}"
        raise UserError(
            f"{_where(task, split)} has no parquet files: {found[:300]}: correct task.hub.name, .splits or .revision"
        )
    return snapshot


def _rows(task: TaskConfig, split: str, snapshot: Snapshot) -> Any:
    """Return a split as a pyarrow table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = None
    for name in _parquet(task, split, snapshot.files):
        try:
            part = pq.read_table(snapshot.folder / name)
            table = part if table is None else pa.concat_tables([table, part])  # fails for other columns
        except (OSError, pa.ArrowException) as error:
            path = snapshot.folder / name
            remedy = (
                f"{same_command('download')} repairs it"
                if is_damaged(path)
                else "it is so on the hub: correct task.hub.revision"
            )
            reason = str(error).splitlines()[0][:100]
            raise UserError(f"{path} is damaged ({reason}): {remedy}, or use data.source=local data.root=DIR") from None
    return table


def _classes_of_card(task: TaskConfig, folder: Path) -> list[str] | None:
    """Return the names of the classes that the card gives, in the order of their numbers; None if it gives none."""
    from datasets.info import DatasetInfosDict

    if task.kind != "classification" or not (folder / CARD).is_file():
        return None
    info = DatasetInfosDict.from_directory(str(folder)).get(task.hub.name)
    label = None if info is None else (info.features or {}).get("label")
    return getattr(label, "names", None)


def _check_size(task: TaskConfig, split: str, found: int, subset: bool) -> None:
    """Compare the number of rows with the declared one: a cut or another release must not pass for the official data."""
    declared = task.sizes.get(split, found)
    if found == declared or (subset and 0 < found < declared):
        return
    unit = ("contexts" if split == "test" else "texts") if task.kind == "generation" else "rows"
    part = "; data.subset=true accepts a part, as low-resource" if 0 < found < declared and not subset else ""
    raise UserError(
        f"{_where(task, split)} has {found} {unit}, but `sizes` of conf/task/{task.name}.yaml has {declared}: "
        f"{same_command('download')} fetches what is missing, else correct "
        f"task.hub.revision{part}"
    )
