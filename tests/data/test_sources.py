"""Sources of task data: layouts, counts, and every way in which a file can be wrong."""

import logging
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_text.tokenizers import word_tokenizer
from helpers.glue_files import (
    OFFICIAL,
    REAL,
    TASKS,
    load_train,
    local_data,
    one_line,
    option,
    tsv,
    write,
    write_mixed,
    write_official,
)
from helpers.hub_server import COMMIT, HubServer, rte_files

from mtlora.base.errors import UserError
from mtlora.config.schema import DataConfig, LocalFile, TaskConfig
from mtlora.data import sources, table_files
from mtlora.data.encoding import Encoded, encode

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data: {REAL} is absent")


@pytest.mark.parametrize("name", TASKS)
def test_official_layout(name: str, tmp_path: Path) -> None:
    task, data = option(name), local_data(write_official(tmp_path / "glue"))
    expected = {
        "cola": [1, 0],
        "sst2": [1, 0],
        "mrpc": [1, 0],
        "qqp": [1, 0],
        "mnli": [0, 2, 1],
        "qnli": [0, 1],
        "rte": [0, 1],
    }
    train = sources.load_split(task, data, "train")
    assert list(train) == [*task.text_columns, "label"]
    assert {type(text) for column in task.text_columns for text in train[column]} == {str}
    assert {type(label) for label in train["label"]} == {float if name == "stsb" else int}
    assert train["label"] == ([4.8, 0.0] if name == "stsb" else expected[name])
    assert sources.evaluation_splits(task, data) == list(task.metrics)
    for split in task.metrics:
        assert len(sources.load_split(task, data, split)["label"]) >= 1
    assert not sources.low_resource(task, data)


def test_text_is_read_as_published(tmp_path: Path) -> None:
    root = write_official(tmp_path / "glue")
    assert load_train("mrpc", root)["sentence1"][0] == 'He said " no .'
    assert load_train("sst2", root)["sentence"][0] == "a fine film "
    assert load_train("qqp", root)["question1"][1] == ""


def test_line_ends(tmp_path: Path) -> None:
    odd = "one\u2028line\u0085only\x0b"
    write(tmp_path / "glue/SST-2/train.tsv", f"sentence\tlabel\r\n{odd}\t1\r\nbad\t0\r\n\r\n")
    rows = load_train("sst2", tmp_path / "glue")
    assert rows == {"sentence": [odd, "bad"], "label": [1, 0]}


def test_mixed_layout_with_subsets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = local_data(write_mixed(tmp_path / "glue"), subset=True)
    with caplog.at_level(logging.WARNING):
        assert sources.evaluation_splits(option("mnli"), data) == ["validation_matched"]
    assert len(caplog.messages) == 1
    assert "validation_mismatched" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]
    loaded = [load_train(name, Path(str(data.root)), True) for name in ("mnli", "qnli", "qqp", "rte")]
    assert [len(columns["label"]) for columns in loaded] == [2, 1, 2, 2]
    assert [sources.low_resource(option(name), data) for name in ("mnli", "qnli", "qqp", "rte")] == [
        True,
        True,
        True,
        False,
    ]
    assert len(sources.load_split(option("qqp"), data, "validation")["label"]) == 1


def test_subset_must_be_allowed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_subset\.jsonl\.gz .*add data\.subset=true") as error:
        load_train("qqp", write_mixed(tmp_path / "glue"))
    one_line(error)


def test_official_file_comes_before_the_subset(tmp_path: Path) -> None:
    root = write_official(write_mixed(tmp_path / "glue"))
    assert not sources.low_resource(option("qqp"), local_data(root, subset=True))
    assert load_train("qqp", root, subset=True)["label"] == [1, 0]


def test_heldout_rows_never_score_a_model_trained_on_them(tmp_path: Path) -> None:
    root = write_mixed(tmp_path / "glue")
    write(root / "QQP/train.tsv", tsv(OFFICIAL["QQP/train.tsv"]))
    with pytest.raises(UserError, match=r"add the official validation file QQP/dev\.tsv"):
        sources.evaluation_splits(option("qqp"), local_data(root, subset=True))


SST2 = "SST-2/train.tsv"


class Parsed:
    """`table_files.read_columns`, which counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        monkeypatch.setattr(sources, "read_columns", self)

    def __call__(self, *arguments: Any) -> dict[str, list[Any]]:
        self.calls += 1
        return table_files.read_columns(*arguments)


def encoded(task: TaskConfig, data: DataConfig, cache: Path) -> Encoded:
    """Encode the training split as a run does."""
    read = partial(sources.load_split, task, data, "train")
    return encode(read, task, "train", word_tokenizer(), 32, cache, sources.fingerprint(task, data))


def test_files_are_parsed_only_where_the_tokens_are_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, parsed = local_data(write_official(tmp_path / "glue")), Parsed(monkeypatch)
    first = encoded(option("mnli"), data, tmp_path / "cache")
    assert np.array_equal(encoded(option("mnli"), data, tmp_path / "cache").input_ids, first.input_ids)
    assert parsed.calls == 1
    swapped = option("mnli")
    swapped.labels = ["neutral", "entailment", "contradiction"]
    again = encoded(swapped, data, tmp_path / "cache")
    assert again.labels.tolist() == [1, 2, 0]  # another meaning of the same bytes is another entry
    write(tmp_path / "glue/MNLI/train.tsv", tsv(OFFICIAL["MNLI/train.tsv"][:2]))
    assert len(encoded(option("mnli"), data, tmp_path / "cache")) == 1
    assert parsed.calls == 3


def test_a_corrupt_cache_file_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data, parsed = local_data(write_official(tmp_path / "glue")), Parsed(monkeypatch)
    first = encoded(option("sst2"), data, tmp_path / "cache")
    (file,) = (tmp_path / "cache/tokens").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-9])
    assert np.array_equal(encoded(option("sst2"), data, tmp_path / "cache").input_ids, first.input_ids)
    assert caplog.messages == [f"the cache file {file} is corrupt: it is made again from the data"]
    assert file.read_bytes() == content
    assert parsed.calls == 2


def test_cache_below_a_file(tmp_path: Path) -> None:
    write(tmp_path / "file", "")
    with pytest.raises(UserError, match="cannot write") as error:
        encoded(option("sst2"), local_data(write_official(tmp_path / "glue")), tmp_path / "file")
    one_line(error)


def test_fingerprint_follows_content_only(tmp_path: Path) -> None:
    task = option("mnli")
    first = sources.fingerprint(task, local_data(write_official(tmp_path / "one")))
    other = write_official(tmp_path / "two")
    (other / "MNLI/train.tsv").unlink()
    write(other / "MNLI/train.tsv.gz", tsv(OFFICIAL["MNLI/train.tsv"]))
    write(other / "RTE/dev.tsv", "unrelated")
    assert sources.fingerprint(task, local_data(other)) == first
    for change in ("edit", "remove"):
        path = other / "MNLI/dev_mismatched.tsv"
        write(path, path.read_text() + "\n") if change == "edit" else path.unlink()
        changed = sources.fingerprint(task, local_data(other))
        assert changed != first
        first = changed


def test_fingerprint_follows_the_meaning_of_columns(tmp_path: Path) -> None:
    task, data = option("mrpc"), local_data(write_official(tmp_path))
    first = sources.fingerprint(task, data)
    columns = {"#1 String": "sentence2", "#2 String": "sentence1", "Quality": "label"}
    task.local["train"] = [LocalFile(file="MRPC/train.tsv", columns=columns)]
    assert sources.fingerprint(task, data) != first


def test_fingerprint_of_the_hub_asks_nothing(hub: HubServer) -> None:
    task, data = option("cola"), DataConfig(source="hub")
    first = sources.fingerprint(task, data)
    assert sources.evaluation_splits(task, data) == ["validation"]
    assert not sources.low_resource(task, data)
    task.hub.revision = "0" * 40
    assert sources.fingerprint(task, data) != first
    assert hub.asked == []


def test_fingerprints_need_nothing_heavy() -> None:
    code = (
        "import sys, mtlora.data.sources, mtlora.config.metrics\n"
        "heavy = {'torch', 'datasets', 'transformers', 'evaluate', 'pyarrow', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_hub_is_read_only_where_the_tokens_are_not_cached(hub: HubServer, tmp_path: Path) -> None:
    task, data = option("rte"), DataConfig(source="hub")
    task.hub.revision, task.sizes = COMMIT, {"train": 6, "validation": 4}
    hub.add("dataset", task.hub.path, rte_files(task))
    assert encoded(task, data, tmp_path).labels.tolist() == [0, 1, 0, 1, 0, 1]
    shutil.rmtree(tmp_path / "hub")
    hub.asked.clear()
    assert encoded(task, data, tmp_path).labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert hub.asked == []
    task.labels = task.labels[::-1]
    with pytest.raises(UserError, match="has the classes entailment, not_entailment, but"):
        sources.load_split(task, data, "train")


def test_hub_without_network(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot fetch nyu-mll/glue.*check the network.*data\.source=local") as error:
        encoded(option("rte"), DataConfig(source="hub"), tmp_path)
    one_line(error)
    assert not (tmp_path / "tokens").exists()
    task = option("rte")
    task.hub.path = ""
    with pytest.raises(UserError, match="rte is not on the hub"):
        sources.fingerprint(task, DataConfig(source="hub"))


@pytest.mark.parametrize("name", TASKS)
def test_builtin(name: str) -> None:
    task, data = option(name), DataConfig(source="builtin")
    assert sources.evaluation_splits(task, data) == list(task.metrics)
    for split in ("train", *task.metrics):
        columns = sources.load_split(task, data, split)
        assert list(columns) == [*task.text_columns, "label"]
        assert {type(label) for label in columns["label"]} == {float if name == "stsb" else int}
    assert not sources.low_resource(task, data)
    with pytest.raises(UserError, match=f"no split test of {name}: use data.source=local"):
        sources.load_split(task, data, "test")


def test_a_task_of_ones_own_has_no_built_in_rows() -> None:
    task = option("rte")
    task.name, task.suite = "boolq", "mine"
    with pytest.raises(UserError, match=r"no split validation of boolq: use data\.source=local") as error:
        sources.fingerprint(task, DataConfig(source="builtin"))
    one_line(error)


# Rows per label in the official (or, marked *, partial) files.
REAL_COUNTS: dict[str, dict[str, list[int]]] = {
    "cola": {"train": [2528, 6023], "validation": [322, 721]},
    "sst2": {"train": [29780, 37569], "validation": [428, 444]},
    "mrpc": {"train": [1194, 2474], "validation": [129, 279]},
    "qqp": {"train": [5747, 3252], "validation": [623, 377]},  # *
    "mnli": {"train": [3061, 2980, 2958], "validation_matched": [3479, 3123, 3213]},  # * train
    "qnli": {"train": [4523, 4476], "validation": [2702, 2761]},  # * train
    "rte": {"train": [1249, 1241], "validation": [146, 131]},
}


@needs_real_data
@pytest.mark.parametrize("name", REAL_COUNTS)
def test_real_counts(name: str) -> None:
    task, data = option(name), local_data(REAL, subset=True)
    assert sources.evaluation_splits(task, data) == [split for split in REAL_COUNTS[name] if split != "train"]
    for split, counts in REAL_COUNTS[name].items():
        labels = Counter(sources.load_split(task, data, split)["label"])
        assert [labels[index] for index in range(len(task.labels))] == counts
        assert sum(labels.values()) == sum(counts)
    assert sources.low_resource(task, data) == (name in ("qqp", "mnli", "qnli"))


@needs_real_data
def test_real_scores() -> None:
    task, data = option("stsb"), local_data(REAL)
    for split, count in (("train", 5749), ("validation", 1500)):
        scores = sources.load_split(task, data, split)["label"]
        assert len(scores) == count == task.sizes[split]
        assert (min(scores), max(scores)) == (0.0, 5.0)
