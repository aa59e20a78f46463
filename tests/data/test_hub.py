"""Rows from a stand-in of the hub: the layouts of the real repositories, counts, commits, and rows that are refused."""

import argparse
import io
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow.parquet as pq
import pytest
from helpers.glue_files import one_line, option
from helpers.hub_server import COMMIT, OLDER, HubServer, export_files, parquet, rte_files, rte_rows

from mtlora.base.errors import UserError
from mtlora.config.schema import DataConfig, TaskConfig
from mtlora.data import hub as rows_of_hub
from mtlora.data.hub import NotDownloaded
from mtlora.data.sources import data_commit, fingerprint, load_contexts, load_split, low_resource
from mtlora.plan import download
from mtlora.tables import command

HUB = DataConfig(source="hub")
EXPORT = "refs/convert/parquet"


@pytest.fixture(autouse=True)
def _no_loading_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: pytest.fail("load_dataset takes another revision in silence")
    )


def rte(**sizes: int) -> TaskConfig:
    task = option("rte")
    task.hub.revision, task.sizes = COMMIT, {"train": 6, "validation": 4} | sizes
    return task


def refusal(task: TaskConfig, data: DataConfig = HUB) -> str:
    with pytest.raises(UserError) as error:
        load_split(task, data, "train")
    one_line(error)
    return str(error.value)


def test_rows_of_the_split_at_the_commit(hub: HubServer) -> None:
    task = rte()
    hub.add("dataset", task.hub.path, rte_files(task, flipped=True), OLDER)
    hub.add("dataset", task.hub.path, rte_files(task))
    columns = load_split(task, HUB, "train")
    assert columns["label"] == [0, 1, 0, 1, 0, 1]
    assert columns["sentence2"][1] == "two 1"
    assert len(load_split(task, HUB, "validation")["label"]) == 4
    assert not [path for path in hub.asked if "/cola/" in path or "/test-" in path], "only the splits that are read"
    assert data_commit(task, HUB) == f"nyu-mll/glue/rte@{COMMIT}"
    hub.asked.clear()
    load_split(task, HUB, "train")
    assert hub.asked == [], "what is here is not asked for"


def test_an_older_cached_commit_is_never_taken(hub: HubServer) -> None:
    older = rte()
    older.hub.revision = OLDER
    hub.add("dataset", older.hub.path, rte_files(older, flipped=True), OLDER)
    assert load_split(older, HUB, "train")["label"][0] == 1
    hub.add("dataset", older.hub.path, rte_files(older))
    hub.faults = [(".", 500)]
    assert f"cannot fetch nyu-mll/glue at {COMMIT}" in refusal(rte())
    assert fingerprint(older, HUB) != fingerprint(rte(), HUB)


def test_the_number_of_rows_is_the_declared_one(hub: HubServer) -> None:
    task = rte()
    hub.add("dataset", task.hub.path, rte_files(task, train=5))
    line = refusal(task)
    assert "rte, split train" in line
    assert "has 5 rows, but `sizes` of conf/task/rte.yaml has 6" in line
    part = DataConfig(source="hub", subset=True)
    assert len(load_split(task, part, "train")["label"]) == 5
    assert (low_resource(task, part), low_resource(task, HUB)) == (True, False)
    files = rte_files(task, train=1)
    name = "rte/train-00000-of-00001.parquet"
    none = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(files[name])).slice(0, 0), none)
    hub.add("dataset", "own/empty", files | {name: none.getvalue()})
    empty = rte()
    empty.hub.path = "own/empty"
    assert "has 0 rows, but `sizes`" in refusal(empty, part)
    task = rte(train=4)
    assert "has 5 rows" in refusal(task, part), "more rows are not a part"


def web_nlg(**more: Any) -> dict[str, Any]:
    """One row in the hub's layout of WebNLG."""
    return {
        "category": "City",
        "modified_triple_sets": {"mtriple_set": [["Ann | home | Rome"]]},
        "lex": {"comment": ["good", "bad"], "text": ["Ann lives in Rome.", "Rome Ann."]},
        "test_category": "",
    } | more


def test_web_nlg_is_one_configuration_of_the_branch_of_exports(hub: HubServer) -> None:
    task = option("webnlg")
    task.sizes = {"train": 2, "validation": 1, "test": 1}
    name, russian = task.hub.name, web_nlg(lex={"comment": ["good"], "text": ["Анна."]})
    without, unseen, scored = (
        web_nlg(test_category=f"testdata_{kind}") for kind in ("no_lex", "unseen_with_lex", "with_lex")
    )
    files = {
        f"{name}/train/0000.parquet": parquet([web_nlg()]),
        f"{name}/train/0001.parquet": parquet([web_nlg(category="Food")]),
        f"{name}/dev/0000.parquet": parquet([web_nlg()]),
        f"{name}/test/0000.parquet": parquet([without, unseen, scored]),
        "release_v3.0_ru/train/0000.parquet": parquet([russian]),
        "release_v3.0_ru/test/0000.parquet": parquet([russian]),
        "release_v1/full/0000.parquet": parquet([web_nlg()]),
    }
    hub.add("dataset", task.hub.path, files, branch=EXPORT)
    with pytest.raises(NotDownloaded, match=r"run `python -m mtlora\.plan\.download webnlg profile=paper` first"):
        fingerprint(task, HUB)
    assert not hub.asked, "a plan does not fetch"
    rows_of_hub.fetch(task, download.hub_splits(task))
    hub.faults = [(".", 500)]
    hub.asked.clear()
    rows = load_split(task, HUB, "train")
    assert (rows["category"], set(rows["text"])) == (["City", "Food"], {"Ann lives in Rome."})
    assert len(load_split(task, HUB, "validation")["text"]) == 1
    assert [context.references for context in load_contexts(task, HUB)] == [("Ann lives in Rome.",)]
    assert data_commit(task, HUB) == f"webnlg-challenge/web_nlg/webnlg_challenge_2017@{COMMIT}"
    assert hub.asked == []


def test_a_branch_that_moves_is_another_identity(hub: HubServer) -> None:
    task = option("e2e")
    task.sizes = dict.fromkeys(task.sizes, 1)
    found = []
    for commit, text in ((OLDER, "Old."), (COMMIT, "New.")):
        content = parquet([{"meaning_representation": "name[A]", "human_reference": text}])
        hub.add("dataset", task.hub.path, export_files(task, content), commit, EXPORT)
        if found:
            assert fingerprint(task, HUB) == found[0], "only a download moves the branch"
        rows_of_hub.fetch(task, list(task.sizes))
        assert load_split(task, HUB, "train") == {"context": ["name : A"], "text": [text], "category": [""]}
        found.append(fingerprint(task, HUB))
    assert found[0] != found[1]
    task.hub.revision = OLDER
    assert load_split(task, HUB, "train")["text"] == ["Old."]


def test_a_missing_configuration_or_split_names_what_there_is(hub: HubServer) -> None:
    task = rte()
    hub.add("dataset", task.hub.path, rte_files(task))
    task.hub.splits = {"train": "training"}
    line = refusal(task)
    assert "split train" in line
    assert "of rte it has rte/test-00000-of-00001.parquet" in line
    task.hub.name = "rtx"
    assert "it has cola, rte: correct task.hub.name" in refusal(task)


@pytest.mark.parametrize(
    ("rows", "classes", "part"),
    [
        (
            [*rte_rows(3), {"sentence1": None, "sentence2": "b", "label": 0}],
            True,
            "row 3: sentence1 is null, not a text",
        ),
        ([{"premise": "a", "hypothesis": "b", "label": 0}], True, "has no column sentence1: found premise"),
        ([*rte_rows(2), {"sentence1": "a", "sentence2": "b", "label": -1}], True, "row 2: label -1 is unknown"),
        (rte_rows(6), False, "has the classes not_entailment, entailment"),
    ],
)
def test_rows_that_are_refused(hub: HubServer, rows: list[dict[str, Any]], classes: bool, part: str) -> None:
    task = rte()
    card = "---\ndataset_info:\n- config_name: rte\n  features:\n  - name: label\n"
    card += "    dtype:\n      class_label:\n        names:\n"
    card += "          '0': not_entailment\n          '1': entailment\n---\n"
    files = {
        "rte/train-00000-of-00001.parquet": parquet(rows, task.labels if classes else None),
        "README.md": card.encode(),
    }
    hub.add("dataset", task.hub.path, files)
    assert part in refusal(task)


def test_a_text_that_is_null_is_refused(hub: HubServer) -> None:
    task = option("e2e")
    task.hub.revision = COMMIT
    rows = [{"meaning_representation": "name[A]", "human_reference": text} for text in ("A.", None)]
    hub.add("dataset", task.hub.path, {"default/train/0000.parquet": parquet(rows)})
    assert "row 1: the text is null, not a text" in refusal(task)


def test_a_damaged_file(hub: HubServer) -> None:
    task = rte()
    files = rte_files(task)
    name = "rte/train-00000-of-00001.parquet"
    files[name] = files[name][:4] + bytes(len(files[name]) - 8) + files[name][-4:]
    hub.add("dataset", task.hub.path, files)
    assert "it is so on the hub" in refusal(task)
    hub.add("dataset", task.hub.path, rte_files(task), OLDER)
    task.hub.revision = OLDER
    rows_of_hub.fetch(task, ["train"])
    file = next(Path(huggingface_hub.constants.HF_HUB_CACHE).rglob(f"{OLDER}/{name}"))
    file.resolve().write_bytes(b"PAR1 half a file")
    assert "`python -m mtlora.plan.download` for the same experiment and profile repairs it" in refusal(task)
    rows_of_hub.fetch(task, ["train"])
    assert len(load_split(task, HUB, "train")["label"]) == 6


def test_tables_of_all_experiments_leave_out_those_whose_data_are_not_here(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(command, "experiment_names", lambda *_: ["deberta", "dart"])  # few of all: composing takes time
    overrides = ["profile=paper", "seed=0", "transform=lora", f"results={tmp_path}"]
    views = command.load(argparse.Namespace(experiment="all", overrides=overrides, runs=None))
    assert [view.plan.experiment.name for view in views] == ["deberta"]
    (message,) = caplog.messages
    assert message.startswith("dart is left out: ")
    assert "run `python -m mtlora.plan.download dart profile=paper` first" in message
    with pytest.raises(NotDownloaded):
        command.load(argparse.Namespace(experiment="dart", overrides=overrides, runs=None))
    assert hub.asked == []


def test_a_part_of_a_split_is_refused(hub: HubServer) -> None:
    task = option("rte")
    task.hub.revision = COMMIT
    hub.add("dataset", task.hub.path, {"rte/train-00000-of-00003.parquet": parquet([{"sentence1": "a"}])})
    assert "has no parquet files" in refusal(task)
