"""Sources of task data: layouts, counts, and every way in which a file can be wrong."""

import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import pytest
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

from mtlora.base.errors import UserError
from mtlora.config.schema import DataConfig, LocalFile
from mtlora.data import sources, table_files

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
    train = sources.load_split(task, data, "train", tmp_path)
    assert train.column_names == [*task.text_columns, "label"]
    assert {train.features[column].dtype for column in task.text_columns} == {"string"}
    if name == "stsb":
        assert train.features["label"].dtype == "float32"
        assert list(train["label"]) == pytest.approx([4.8, 0.0])
    else:
        assert train.features["label"].dtype == "int64"
        assert list(train["label"]) == expected[name]
    assert sources.evaluation_splits(task, data) == list(task.metrics)
    for split in task.metrics:
        assert len(sources.load_split(task, data, split, tmp_path)) >= 1
    assert not sources.low_resource(task, data)


def test_text_is_read_as_published(tmp_path: Path) -> None:
    root = write_official(tmp_path / "glue")
    assert load_train("mrpc", root, tmp_path)[0]["sentence1"] == 'He said " no .'
    assert load_train("sst2", root, tmp_path)[0]["sentence"] == "a fine film "
    assert load_train("qqp", root, tmp_path)[1]["question1"] == ""


def test_line_ends(tmp_path: Path) -> None:
    odd = "one\u2028line\u0085only\x0b"
    write(tmp_path / "glue/SST-2/train.tsv", f"sentence\tlabel\r\n{odd}\t1\r\nbad\t0\r\n\r\n")
    rows = load_train("sst2", tmp_path / "glue", tmp_path)
    assert list(rows["sentence"]) == [odd, "bad"]
    assert list(rows["label"]) == [1, 0]


def test_mixed_layout_with_subsets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = local_data(write_mixed(tmp_path / "glue"), subset=True)
    with caplog.at_level(logging.WARNING):
        assert sources.evaluation_splits(option("mnli"), data) == ["validation_matched"]
    assert len(caplog.messages) == 1
    assert "validation_mismatched" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]
    assert [len(load_train(name, Path(str(data.root)), tmp_path, True)) for name in ("mnli", "qnli", "qqp", "rte")] == [
        2,
        1,
        2,
        2,
    ]
    assert [sources.low_resource(option(name), data) for name in ("mnli", "qnli", "qqp", "rte")] == [
        True,
        True,
        True,
        False,
    ]
    assert len(sources.load_split(option("qqp"), data, "validation", tmp_path)) == 1


def test_subset_must_be_allowed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_subset\.jsonl\.gz .*add data\.subset=true") as error:
        load_train("qqp", write_mixed(tmp_path / "glue"), tmp_path)
    one_line(error)


def test_official_file_comes_before_the_subset(tmp_path: Path) -> None:
    root = write_official(write_mixed(tmp_path / "glue"))
    assert not sources.low_resource(option("qqp"), local_data(root, subset=True))
    assert list(load_train("qqp", root, tmp_path, subset=True)["label"]) == [1, 0]


def test_heldout_rows_never_score_a_model_trained_on_them(tmp_path: Path) -> None:
    root = write_mixed(tmp_path / "glue")
    write(root / "QQP/train.tsv", tsv(OFFICIAL["QQP/train.tsv"]))
    with pytest.raises(UserError, match=r"add the official validation file QQP/dev\.tsv"):
        sources.evaluation_splits(option("qqp"), local_data(root, subset=True))


SST2 = "SST-2/train.tsv"


def test_files_are_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, calls = write_official(tmp_path / "glue"), []
    parse = table_files.read_columns
    monkeypatch.setattr(sources, "read_columns", lambda *arguments: calls.append(1) or parse(*arguments))
    first = load_train("mnli", root, tmp_path / "cache")
    assert load_train("mnli", root, tmp_path / "cache").to_list() == first.to_list()
    assert len(calls) == 1
    swapped = option("mnli")
    swapped.labels = ["neutral", "entailment", "contradiction"]
    again = sources.load_split(swapped, local_data(root), "train", tmp_path / "cache")
    assert list(again["label"]) == [1, 2, 0]  # another meaning of the same bytes is another entry
    write(root / "MNLI/train.tsv", tsv(OFFICIAL["MNLI/train.tsv"][:2]))
    assert len(load_train("mnli", root, tmp_path / "cache")) == 1


def test_a_corrupt_parsed_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_official(tmp_path / "glue")
    first = load_train("sst2", root, tmp_path)
    (file,) = (tmp_path / "data").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-9])
    assert load_train("sst2", root, tmp_path).to_list() == first.to_list()
    assert caplog.messages == [f"the cache file {file} is corrupt: it is made again from the data"]
    assert file.read_bytes() == content


def test_cache_below_a_file(tmp_path: Path) -> None:
    write(tmp_path / "file", "")
    with pytest.raises(UserError, match="cannot write") as error:
        load_train("sst2", write_official(tmp_path / "glue"), tmp_path / "file")
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


def test_fingerprint_of_the_hub_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("loaded"))
    task, data = option("cola"), DataConfig(source="hub")
    first = sources.fingerprint(task, data)
    assert sources.evaluation_splits(task, data) == ["validation"]
    assert not sources.low_resource(task, data)
    task.hub.revision = "0" * 40
    assert sources.fingerprint(task, data) != first


def test_fingerprints_need_nothing_heavy() -> None:
    code = (
        "import sys, mtlora.data.sources, mtlora.config.metrics\n"
        "heavy = {'torch', 'datasets', 'transformers', 'evaluate', 'pyarrow', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_hub_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, calls = option("rte"), []
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0], "idx": [0, 1]}
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("sentence1", "sentence2")}
        | {"label": datasets.ClassLabel(names=task.labels), "idx": datasets.Value("int32")}
    )

    def load_dataset(path: str, name: str, *, revision: str, split: str) -> datasets.Dataset:
        calls.append((path, name, revision, split))
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for _ in range(2):
        loaded = sources.load_split(task, DataConfig(source="hub"), "train", tmp_path)
        assert loaded.to_list() == [
            {"sentence1": "a", "sentence2": "c", "label": 1},
            {"sentence1": "b", "sentence2": "d", "label": 0},
        ]
    assert calls == [("nyu-mll/glue", "rte", task.hub.revision, "train")]
    task.labels = task.labels[::-1]
    with pytest.raises(UserError, match="has the classes entailment, not_entailment, but"):
        sources.load_split(task, DataConfig(source="hub"), "train", tmp_path)


def test_hub_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        UserError, match=r"nyu-mll/glue, rte, split train.*check the network.*data\.source=local"
    ) as error:
        sources.load_split(option("rte"), DataConfig(source="hub"), "train", tmp_path)
    one_line(error)
    assert not list(tmp_path.iterdir())
    task = option("rte")
    task.hub.path = ""
    with pytest.raises(UserError, match="rte is not on the hub"):
        sources.fingerprint(task, DataConfig(source="hub"))


@pytest.mark.parametrize("name", TASKS)
def test_builtin(name: str, tmp_path: Path) -> None:
    task, data = option(name), DataConfig(source="builtin")
    for split in ("train", *sources.evaluation_splits(task, data)):
        rows = sources.load_split(task, data, split, tmp_path)
        assert rows.column_names == [*task.text_columns, "label"]
        assert rows.features["label"].dtype == ("float32" if name == "stsb" else "int64")
        assert str(rows.split) == split
    with pytest.raises(UserError, match="no split 'test'"):
        sources.load_split(task, data, "test", tmp_path)


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
def test_real_counts(name: str, tmp_path: Path) -> None:
    task, data = option(name), local_data(REAL, subset=True)
    assert sources.evaluation_splits(task, data) == [split for split in REAL_COUNTS[name] if split != "train"]
    for split, counts in REAL_COUNTS[name].items():
        labels = Counter(sources.load_split(task, data, split, tmp_path)["label"])
        assert [labels[index] for index in range(len(task.labels))] == counts
        assert sum(labels.values()) == sum(counts)
    assert sources.low_resource(task, data) == (name in ("qqp", "mnli", "qnli"))


@needs_real_data
def test_real_scores(tmp_path: Path) -> None:
    task, data = option("stsb"), local_data(REAL)
    for split, count in (("train", 5749), ("validation", 1500)):
        scores = list(sources.load_split(task, data, split, tmp_path)["label"])
        assert len(scores) == count == task.sizes[split]
        assert (min(scores), max(scores)) == (0.0, 5.0)
