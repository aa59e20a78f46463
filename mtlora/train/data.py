"""The data of a run: its tokenizer, and the encoded splits."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtlora.base.hashing import digest
from mtlora.config.schema import RunConfig
from mtlora.data.batches import sample_rows
from mtlora.data.encoding import encode
from mtlora.data.prompting import pad_token
from mtlora.data.sources import evaluation_splits, load_split
from mtlora.plan.cell import Cell
from mtlora.train.evaluation import RunData
from mtlora.train.model.backbones import load_tokenizer

_data: dict[str, tuple[Any, RunData]] = {}


def load_data(cell: Cell) -> tuple[Any, RunData]:
    """Return the tokenizer, and the encoded training split and every evaluation split that the source has.

    Those of the last run of this process are kept for the next.
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
    cache = Path(config.results) / "cache"
    tokenizer = load_tokenizer(config.model)

    def encoded(split: str) -> Any:
        dataset = load_split(config.task, config.data, split, cache)
        return encode(dataset, config.task, tokenizer, config.data.max_length, cache, f"{content}-{split}")

    training = encoded("train")
    splits = evaluation_splits(config.task, config.data)
    if config.task.kind == "generation":
        splits.remove("test")  # decoded at the end; its loss is not looked at
    evaluation = {split: encoded(split) for split in splits}
    rows = sample_rows(len(training), config.train.limit_examples, "limit_examples", config.task.name)
    return tokenizer, RunData(training, rows, evaluation, pad_token(tokenizer))
