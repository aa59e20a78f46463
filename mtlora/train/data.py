"""The data of a run: its tokenizer and its tokenised splits."""

import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mtlora.base.errors import UserError
from mtlora.base.hashing import digest
from mtlora.config.schema import RunConfig
from mtlora.data.batches import sample_rows
from mtlora.data.encoding import Encoded, encode
from mtlora.data.prompting import pad_token
from mtlora.data.sources import evaluation_splits, fingerprint, load_split
from mtlora.plan.cell import Cell
from mtlora.train.evaluation import RunData
from mtlora.train.model.backbones import load_tokenizer

log = logging.getLogger(__name__)

_data: dict[str, tuple[Any, RunData]] = {}


def load_data(cell: Cell) -> tuple[Any, RunData]:
    """Return the tokenizer, the encoded training split and every evaluation split that the source has.

    The result for the last run of this process is cached.
    """
    config = cell.config
    content = cell.identity["data_content"]
    parts = [asdict(part) for part in (config.model, config.task, config.data)]
    key = digest([content, parts, config.train.limit_examples, config.results])
    if key not in _data:
        _data.clear()
        _data[key] = _load_data(config, content)
    return _data[key]


def _load_data(config: RunConfig, content: str) -> tuple[Any, RunData]:
    task, data, cache = config.task, config.data, Path(config.results) / "cache"
    if fingerprint(task, data) != content:  # a branch of the hub has moved, or files were edited
        raise UserError(f"the data of {task.name} have changed since this run was planned: give the command again")
    tokenizer = load_tokenizer(config.model)

    def encoded(split: str) -> Encoded:
        read = partial(load_split, task, data, split)
        return encode(read, task, split, tokenizer, data.max_length, cache, content)

    training = encoded("train")
    splits = evaluation_splits(task, data)
    if task.kind == "generation":
        splits = [split for split in splits if split != "test"]  # decoded after training; its loss is never computed
    evaluation = {split: encoded(split) for split in splits}
    rows = sample_rows(len(training), config.train.limit_examples, "limit_examples", task.name)
    if task.kind == "generation":
        _check_targets((training.lengths - training.labels)[rows], task.name, data.max_length)
    return tokenizer, RunData(training, rows, evaluation, pad_token(tokenizer))


def _check_targets(lengths: np.ndarray, task: str, max_length: int) -> None:
    """Check that texts are left to learn; `lengths` (rows,) has their tokens, which are cut off behind `data.max_length`.

    Raises:
        UserError: none is left.
    """
    empty = int((lengths <= 0).sum())
    advice = f"because their facts fill data.max_length={max_length}: raise it"
    if empty == len(lengths):
        raise UserError(f"{task}: none of the {empty} training rows has a token of its text, {advice}")
    if empty:
        log.warning("%s: %d of %d training rows have no token of their text, %s", task, empty, len(lengths), advice)
