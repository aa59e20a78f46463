"""Task options, and folders of data files in the layouts that people have; all rows are made up here."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mtlora.base.errors import UserError
from mtlora.base.paths import CONF, REPOSITORY
from mtlora.config.checks import type_local_files
from mtlora.config.schema import DataConfig, TaskConfig
from mtlora.data import sources

TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
REAL = REPOSITORY.parent / "shared" / "data" / "glue"

# File of the official GLUE zip -> its header (None: no header) and two rows.
_MNLI = [
    "index",
    "promptID",
    "pairID",
    "genre",
    "sentence1_binary_parse",
    "sentence2_binary_parse",
    "sentence1_parse",
    "sentence2_parse",
]
OFFICIAL: dict[str, list[list[str]]] = {
    "CoLA/train.tsv": [["aa01", "1", "", "Dogs bark."], ["aa02", "0", "*", "Dogs barks."]],
    "CoLA/dev.tsv": [["aa03", "0", "*", "Them sleep."], ["aa04", "1", "", "They sleep."]],
    "SST-2/train.tsv": [["sentence", "label"], ["a fine film ", "1"], ["dull ", "0"]],
    "SST-2/dev.tsv": [["sentence", "label"], ["no fun ", "0"], ["great ", "1"]],
    "MRPC/train.tsv": [
        ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
        ["1", "11", "12", 'He said " no .', 'He " declined .'],
        ["0", "13", "14", "It rained .", "It snowed ."],
    ],
    "MRPC/dev.tsv": [["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], ["0", "1", "2", "A", "B"]],
    "STS-B/train.tsv": [
        ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"],
        ["0", "g", "f", "2012", "1", "none", "none", "A cat sits.", "A cat is sitting.", "4.800"],
        ["1", "g", "f", "2012", "2", "none", "none", "A cat sits.", "It rains.", "0.000"],
    ],
    "STS-B/dev.tsv": [
        ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"],
        ["0", "g", "f", "2012", "1", "none", "none", "A", "B", "2.5"],
    ],
    "QQP/train.tsv": [
        ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
        ["0", "1", "2", "How?", "In what way?", "1"],
        ["1", "3", "4", "", "Why?", "0"],
    ],
    "QQP/dev.tsv": [["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], ["0", "1", "2", "A?", "B?", "0"]],
    "MNLI/train.tsv": [
        [*_MNLI, "sentence1", "sentence2", "label1", "gold_label"],
        [*"01234567", "It rains.", "It is wet.", "entailment", "entailment"],
        [*"01234567", "It rains.", "It is dry.", "contradiction", "contradiction"],
        [*"01234567", "It rains.", "Ann reads.", "neutral", "neutral"],
    ],
    "MNLI/dev_matched.tsv": [
        [*_MNLI, "sentence1", "sentence2", *(f"label{k}" for k in range(1, 6)), "gold_label"],
        [*"01234567", "A", "B ", *["entailment"] * 5, "neutral"],
    ],
    "MNLI/dev_mismatched.tsv": [
        [*_MNLI, "sentence1", "sentence2", *(f"label{k}" for k in range(1, 6)), "gold_label"],
        [*"01234567", "C", "D", *["entailment"] * 5, "contradiction"],
    ],
    "QNLI/train.tsv": [
        ["index", "question", "sentence", "label"],
        ["0", "Who?", "Ann did.", "entailment"],
        ["1", "When?", "Ann did.", "not_entailment"],
    ],
    "QNLI/dev.tsv": [["index", "question", "sentence", "label"], ["0", "A?", "B", "not_entailment"]],
    "RTE/train.tsv": [
        ["index", "sentence1", "sentence2", "label"],
        ["0", "Ann reads.", "Ann can read.", "entailment"],
        ["1", "Ann reads.", "Ann sleeps.", "not_entailment"],
    ],
    "RTE/dev.tsv": [["index", "sentence1", "sentence2", "label"], ["0", "A", "B", "entailment"]],
}  # fmt: skip


def option(name: str) -> TaskConfig:
    """Return the task option `name` as a run gets it."""
    merged = OmegaConf.merge(OmegaConf.structured(TaskConfig), OmegaConf.load(CONF / "task" / f"{name}.yaml"))
    task = OmegaConf.to_object(merged)
    assert isinstance(task, TaskConfig)
    type_local_files(task)
    return task


def write(path: Path, content: str | bytes) -> Path:
    """Write a file (compressed if its name ends in `.gz`) and the folders above it."""
    raw = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def tsv(rows: list[list[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_official(root: Path) -> Path:
    """Write the official GLUE zip's layout, with MRPC's byte order mark."""
    for name, rows in OFFICIAL.items():
        write(root / name, ("\ufeff" if name.startswith("MRPC") else "") + tsv(rows))
    return root


def write_mixed(root: Path) -> Path:
    """Write the layout of a partial copy: gzip, JSON lines, training subsets, no QQP dev, no MNLI mismatched."""
    nli = [{"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment"}]
    qqp = [{"question1": "How?", "question2": "In what way?", "label": 1}]
    write(root / "MNLI/train_subset.jsonl.gz", jsonl(nli * 2))
    write(root / "MNLI/dev_matched.jsonl.gz", jsonl(nli))
    write(root / "QNLI/train_subset.jsonl.gz", jsonl([{"question": "Who?", "sentence": "Ann.", "label": "entailment"}]))
    write(root / "QNLI/dev.tsv.gz", tsv(OFFICIAL["QNLI/dev.tsv"]))
    write(root / "QQP/train_subset.jsonl.gz", jsonl(qqp * 2))
    write(root / "QQP/train_subset_heldout.jsonl.gz", jsonl(qqp))
    write(root / "RTE/train.tsv.gz", tsv(OFFICIAL["RTE/train.tsv"]))
    write(root / "RTE/dev.tsv", tsv(OFFICIAL["RTE/dev.tsv"]))
    return root


def local_data(root: Path, subset: bool = False) -> DataConfig:
    return DataConfig(source="local", root=str(root), subset=subset)


def load_train(name: str, root: Path, subset: bool = False) -> dict[str, list[Any]]:
    return sources.load_split(option(name), local_data(root, subset), "train")


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message
