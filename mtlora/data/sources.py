"""Where a task's rows come from: the hub, local files or the built-in generator; one never stands in for another.

Nothing heavy is imported at the top: plans and tables call `fingerprint` and must start at once.
"""

import functools
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlora.base.errors import UserError
from mtlora.base.hashing import digest
from mtlora.config.schema import DataConfig, TaskConfig
from mtlora.data.cache import cache_key, load_table, store_table
from mtlora.data.contexts import Group, Pair, group_pairs, linearise
from mtlora.data.files import content_digest, find_file
from mtlora.data.table_files import parse_label, read_columns
from mtlora.data.text_files import E2E_ATTRIBUTES, HUB_FORMATS, read_pairs

if TYPE_CHECKING:
    import datasets

LOG = logging.getLogger(__name__)

PARSER_VERSION = 1  # raise it when the same files or hub rows give other rows than before
PAIR_COLUMNS = ("context", "text", "category")  # of a generation task


def load_split(task: TaskConfig, data: DataConfig, split: str, cache: Path) -> "datasets.Dataset":
    """Return one split with the task's text columns (string) and `label` (int64 class index, or float32 score).

    A generation task has the columns `context`, `text` and `category` (strings) instead.

    Parsed files and hub splits are kept as parquet below `cache`, so that parsing and fetching happen once.

    Raises:
        UserError: the source lacks the split, cannot be reached, or has a broken row; names the place.
    """
    import datasets

    if data.source == "builtin":
        table = _to_table(task, _builtin_columns(task, split))
    else:
        parts = [
            PARSER_VERSION,
            split_fingerprint(task, data, split),
            task.kind,
            task.text_columns,
            task.labels,
            task.lower_relation,
        ]
        path = cache / "data" / f"{task.name}-{split}-{cache_key(*parts)}.parquet"
        table = load_table(path, _schema(task))
        if table is None:
            table = _to_table(
                task, _hub_columns(task, split) if data.source == "hub" else _local_columns(task, data, split)
            )
            store_table(table, path)
    return datasets.Dataset(datasets.table.InMemoryTable(table), split=datasets.NamedSplit(split))


def evaluation_splits(task: TaskConfig, data: DataConfig) -> list[str]:
    """Return the evaluation splits that the source has, the headline's first; each missing one is logged.

    Raises:
        UserError: the split that carries the headline metric is missing.
    """
    available = _available_splits(task, data)
    for split in _wanted_splits(task):
        if split not in available:
            LOG.warning(
                "%s: no usable file for %s in data.root=%s: its metrics are absent", task.name, split, data.root
            )
    return available


def low_resource(task: TaskConfig, data: DataConfig) -> bool:
    """Say whether any split of the run is read from a file that holds only a part of the official split.

    Raises:
        UserError: the training file or the first evaluation file is missing.
    """
    if data.source != "local":
        return False
    return any(find_file(task, data, split)[0].subset for split in ["train", *_available_splits(task, data)])


def fingerprint(task: TaskConfig, data: DataConfig) -> str:
    """Return a hash of the content of every split that a run reads (and of which splits there are).

    Equal content has an equal hash wherever it lies, compressed or not. For the hub it stands for the revision
    (of DART, WebNLG and E2E a branch, not a commit: the hub makes it from older releases); nothing is loaded.

    Raises:
        UserError: the training file or the first evaluation file is missing.
    """
    splits = ["train", *_available_splits(task, data)]
    return cache_key(PARSER_VERSION, [[split, split_fingerprint(task, data, split)] for split in splits])


def split_fingerprint(task: TaskConfig, data: DataConfig, split: str) -> str:
    """Return a hash of the content of one split; see `fingerprint`."""
    if data.source == "hub":
        if "" in (task.hub.path, task.hub.name, task.hub.revision):
            raise UserError(f"task {task.name} is not on the hub: use data.source=local or data.source=builtin")
        return f"{task.hub.path}/{task.hub.name}@{task.hub.revision}"
    if data.source == "builtin":
        return _builtin_digest(task.name, split, task.kind)
    file, path = find_file(task, data, split)
    if file.format != "table":
        return cache_key(content_digest(path), file.format)
    return cache_key(content_digest(path), file.header, file.columns)


def _wanted_splits(task: TaskConfig) -> list[str]:
    # The metrics of a generation task name parts of the test split (test_S, ...); its loss is watched on validation.
    return ["test", "validation"] if task.kind == "generation" else list(task.metrics)


def _available_splits(task: TaskConfig, data: DataConfig) -> list[str]:
    first, *others = _wanted_splits(task)
    if data.source != "local":
        return [first, *others]
    find_file(task, data, first)
    return [first, *(split for split in others if _has_file(task, data, split))]


def _has_file(task: TaskConfig, data: DataConfig, split: str) -> bool:
    try:
        find_file(task, data, split)
    except UserError:
        return False
    return True


def _local_columns(task: TaskConfig, data: DataConfig, split: str) -> dict[str, list[Any]]:
    file, path = find_file(task, data, split)
    if task.kind == "generation":
        return _pair_columns(read_pairs(path, file.format, task.lower_relation))
    return read_columns(task, file, path)


def _pair_columns(pairs: Iterable[Pair]) -> dict[str, list[Any]]:
    rows = list(pairs)
    return {name: [getattr(row, name) for row in rows] for name in PAIR_COLUMNS}


def _hub_columns(task: TaskConfig, split: str) -> dict[str, list[Any]]:
    import datasets
    import huggingface_hub

    where = f"{task.hub.path}, {task.hub.name}, split {split}, revision {task.hub.revision}"
    verbosity = huggingface_hub.logging.get_verbosity()
    huggingface_hub.logging.set_verbosity_error()  # its retries would be a dozen lines before our one
    try:
        theirs = task.hub.splits.get(split, split)
        rows = datasets.load_dataset(task.hub.path, task.hub.name, revision=task.hub.revision, split=theirs)
    except Exception as error:  # network, repository, configuration and split errors share no base class
        raise UserError(
            f"cannot load {where} from the hub ({type(error).__name__}): check the network, or use "
            "data.source=local data.root=DIR"
        ) from error
    finally:
        huggingface_hub.logging.set_verbosity(verbosity)
    if task.kind == "generation":
        return _hub_pairs(task, rows, where)
    names = [*task.text_columns, "label"]
    if missing := [name for name in names if name not in rows.column_names]:
        raise UserError(f"{where} has no column {missing[0]}: found {', '.join(rows.column_names)}")
    classes = getattr(rows.features["label"], "names", task.labels)
    if classes != task.labels:
        raise UserError(
            f"{where} has the classes {', '.join(classes)}, but conf/task/{task.name}.yaml {', '.join(task.labels)}"
        )
    columns = {name: list(rows[name]) for name in names}
    columns["label"] = [parse_label(task, value, f"{where}, row {row}") for row, value in enumerate(columns["label"])]
    return columns


def _hub_pairs(task: TaskConfig, rows: Iterable[Any], where: str) -> dict[str, list[Any]]:
    parse = HUB_FORMATS[task.hub.format]
    try:
        return _pair_columns(pair for row in rows for pair in parse(row, task.lower_relation))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(f"{where} has other columns than expected ({error}): use data.source=local") from None


def _builtin_columns(task: TaskConfig, split: str) -> dict[str, list[Any]]:
    rows = _builtin_rows(task.name, split, task.kind)
    if task.kind == "generation":
        return _pair_columns(
            Pair(_builtin_context(task, entry["facts"]), text, entry["category"])
            for entry in rows
            for text in entry["texts"]
        )
    columns = {name: [row[name] for row in rows] for name in task.text_columns}
    columns["label"] = [
        parse_label(task, row["label"], f"built-in {task.name} {split}, row {n}") for n, row in enumerate(rows)
    ]
    return columns


def builtin_texts(name: str, kind: str, split: str) -> list[str]:
    """Return what is encoded of each row of a built-in split, roughly: its texts, joined (for cost estimates)."""
    rows = _builtin_rows(name, split, kind)
    if kind != "generation":
        return [" ".join(value for value in row.values() if isinstance(value, str)) for row in rows]
    return [f"{' : '.join(sum(entry['facts'], ()))} {text}" for entry in rows for text in entry["texts"]]


def _builtin_context(task: TaskConfig, facts: list[tuple[str, str, str]]) -> str:
    # E2E's facts have no subject: they are (attribute, value) pairs, named as LoRA's data name them.
    pairs = [fact if fact[0] else (E2E_ATTRIBUTES.get(fact[1], fact[1]), fact[2]) for fact in facts]
    return linearise(pairs, task.lower_relation)


@functools.cache
def _builtin_rows(name: str, split: str, kind: str) -> list[dict[str, Any]]:
    if kind == "generation":
        from mtlora.data.builtin.triples import generate_entries

        return [asdict(entry) for entry in generate_entries(name, split)]
    from mtlora.data import builtin

    return builtin.generate(name, split)


@functools.cache
def _builtin_digest(name: str, split: str, kind: str) -> str:
    return digest(_builtin_rows(name, split, kind))


def _schema(task: TaskConfig) -> Any:
    import pyarrow as pa

    if task.kind == "generation":
        return pa.schema([(name, pa.string()) for name in PAIR_COLUMNS])
    label = pa.int64() if task.kind == "classification" else pa.float32()
    return pa.schema([*((name, pa.string()) for name in task.text_columns), ("label", label)])


def _to_table(task: TaskConfig, columns: dict[str, list[Any]]) -> Any:
    import pyarrow as pa

    return pa.table(columns, schema=_schema(task))


def load_groups(task: TaskConfig, data: DataConfig, cache: Path) -> list[Group]:
    """Return the contexts of the test split, in the order of their first occurrence, with their references.

    Raises:
        UserError: the source lacks the split, or a context has no text.
    """
    rows = load_split(task, data, "test", cache)
    return group_pairs((Pair(**row) for row in rows), task.max_references)
