"""Tokenised data: computed once per (data, tokenizer, length), kept on disk, shared by all runs."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlora.base.errors import UserError
from mtlora.base.hashing import digest
from mtlora.config.schema import TaskConfig
from mtlora.data.cache import cache_key, load_table, store_table
from mtlora.data.prompting import encode_sentences

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1  # of the cached files: raise it when encoding or layout changes
CHUNK = 1000  # examples tokenised in one call
PROGRESS_FROM = 20_000  # number of examples from which a progress bar is shown (they take a few seconds)


@dataclass
class Encoded:
    """A tokenised split of n examples as flat arrays; example i is `input_ids[offsets[i]:offsets[i + 1]]`."""

    input_ids: np.ndarray  # (tokens,) int32
    token_type_ids: np.ndarray | None  # (tokens,) int8, for models that mark the two texts of a pair
    offsets: np.ndarray  # (n + 1,) int64
    labels: np.ndarray  # (n,) int64 class indices, float32 scores, or int64 lengths of the prompts (generation)

    @cached_property  # each run of a cohort reads it several times a step, and a split may have 400,000 examples
    def lengths(self) -> np.ndarray:
        """Tokens per example, (n,) int64, special tokens included."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.labels)


def encode(
    read: Callable[[], dict[str, list[Any]]],
    task: TaskConfig,
    split: str,
    tokenizer: Any,
    max_length: int,
    cache: Path,
    source_key: str,
) -> Encoded:
    """Tokenise a split, or read it from the cache if an earlier run did.

    Args:
        read: returns the whole split's columns (`load_split`); called only if the cache does not hold it.
        task: its `text_columns` are encoded, one or two, in their order.
        split: the split's name.
        tokenizer: a fast Hugging Face tokenizer.
        max_length: tokens per example, special tokens included; of a pair the longer text is cut first.
        cache: the folder shared by all runs.
        source_key: the content hash of the data (`fingerprint`).

    Raises:
        UserError: the cache cannot be written, the tokenizer is not a fast one, or `read` fails.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{type(tokenizer).__name__} has no fast version: choose a model with a tokenizer.json")
    key = cache_key(
        FORMAT_VERSION,
        source_key,
        split,
        task.kind,
        task.text_columns,
        task.labels,
        task.lower_relation,
        tokenizer_digest(tokenizer),
        max_length,
    )
    path = cache / "tokens" / f"{task.name}-{split}-{key}.parquet"
    typed = "token_type_ids" in tokenizer.model_input_names and task.kind != "generation"
    table = load_table(path, _schema(task, typed))
    if table is None:
        table = _tokenise(read(), task, tokenizer, max_length, typed)
        store_table(table, path)
    return _from_table(table, typed)


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a hash of everything that decides a fast tokenizer's output, but not of where it was loaded from."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # These are settings of the tokenizer's last call; the key must not depend on it.
    del state["truncation"], state["padding"]
    return digest([state, sorted(tokenizer.model_input_names), tokenizer.truncation_side])


def collate(
    encoded: Encoded, indices: np.ndarray, pad_token_id: int, padding: str, max_length: int
) -> dict[str, "torch.Tensor"]:
    """Return the examples `indices` as one right-padded batch of shape (batch, width).

    Args:
        encoded: the tokenised split.
        indices: (batch,) positions in the split.
        pad_token_id: fills `input_ids` behind an example's end.
        padding: the width of the batch: `longest`, the length of its longest example, or `max_length`.
        max_length: the width with `padding="max_length"`.

    Returns:
        `input_ids`, `attention_mask` and, for models that use them, `token_type_ids`, int64 (batch, width);
        `labels` (batch,).
    """
    import torch

    lengths = encoded.offsets[indices + 1] - encoded.offsets[indices]
    width = max_length if padding == "max_length" else int(lengths.max())
    mask = np.arange(width) < lengths[:, None]  # (batch, width)
    # Position in the flat arrays of every real token, in the order in which the mask lists them.
    flat = (encoded.offsets[indices][:, None] + np.arange(width))[mask]
    batch = {"input_ids": np.full(mask.shape, pad_token_id, dtype=np.int64), "attention_mask": mask.astype(np.int64)}
    batch["input_ids"][mask] = encoded.input_ids[flat]
    if encoded.token_type_ids is not None:
        batch["token_type_ids"] = np.zeros(mask.shape, dtype=np.int64)
        batch["token_type_ids"][mask] = encoded.token_type_ids[flat]
    return {name: torch.from_numpy(array) for name, array in (batch | {"labels": encoded.labels[indices]}).items()}


def _tokenise(split: dict[str, list[Any]], task: TaskConfig, tokenizer: Any, max_length: int, typed: bool) -> Any:
    import pyarrow as pa

    total = len(split[task.text_columns[0]])
    lengths: list[int] = []
    labels: list[int | float] = []
    columns: dict[str, list[np.ndarray]] = {"input_ids": []}
    if typed:
        columns["token_type_ids"] = []
    for start in _progress(range(0, total, CHUNK), f"tokenising {task.name}", total):
        rows = {name: values[start : start + CHUNK] for name, values in split.items()}
        if task.kind == "generation":
            ids, prompts = encode_sentences(rows["context"], rows["text"], tokenizer, max_length)
            encoding: Any = {"input_ids": ids}
        else:
            encoding = tokenizer(
                *(rows[name] for name in task.text_columns),
                truncation="longest_first",
                max_length=max_length,
                return_attention_mask=False,
                return_token_type_ids=typed,
            )
        labels += prompts if task.kind == "generation" else rows["label"]
        lengths += map(len, encoding["input_ids"])
        for name, chunks in columns.items():
            kind = np.int32 if name == "input_ids" else np.int8
            chunks.append(np.concatenate([np.asarray(ids, dtype=kind) for ids in encoding[name]]))
    offsets = pa.array(np.cumsum([0, *lengths]))
    table: dict[str, Any] = {
        name: pa.LargeListArray.from_arrays(offsets, np.concatenate(chunks)) for name, chunks in columns.items()
    }
    return pa.table(table | {"label": labels}, schema=_schema(task, typed))


def _schema(task: TaskConfig, typed: bool) -> Any:
    import pyarrow as pa

    fields = [("input_ids", pa.large_list(pa.int32()))]
    if typed:
        fields.append(("token_type_ids", pa.large_list(pa.int8())))
    return pa.schema([*fields, ("label", pa.float32() if task.kind == "regression" else pa.int64())])


def _from_table(table: Any, typed: bool) -> Encoded:
    import pyarrow as pa

    columns = {name: pa.concat_arrays(table[name].chunks) for name in table.column_names}
    return Encoded(
        input_ids=columns["input_ids"].flatten().to_numpy(),
        token_type_ids=columns["token_type_ids"].flatten().to_numpy() if typed else None,
        offsets=columns["input_ids"].offsets.to_numpy(),
        labels=columns["label"].to_numpy(),
    )


def _progress(starts: range, description: str, total: int) -> Iterator[int]:
    if total < PROGRESS_FROM:
        yield from starts
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(starts, description, console=console, transient=True, disable=not console.is_terminal)
