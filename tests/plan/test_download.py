"""The command that fetches ahead of time, against a stand-in of the hub."""

import sys
from pathlib import Path

import pytest
from helpers.glue_files import option
from helpers.hub_server import COMMIT, HubServer, export_files, parquet, rte_files

from mtlora.base.errors import UserError
from mtlora.plan import download

MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"weights",
}
RTE = [
    "glue",
    "profile=paper",
    "task=rte",
    "init_from=none",
    "transform=lora",
    "seed=0",
    f"task.hub.revision={COMMIT}",
    f"model.revision={COMMIT}",
]


@pytest.fixture
def _repositories(hub: HubServer) -> None:
    hub.add("dataset", "nyu-mll/glue", rte_files(option("rte")))
    hub.add("model", "FacebookAI/roberta-base", MODEL)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["download", *arguments])
    download.main()


@pytest.mark.usefixtures("_repositories")
def test_data_and_model(hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # the second time everything is here
        run(monkeypatch, *RTE, "task.sizes.train=6", "task.sizes.validation=4")
        model, *rows = capsys.readouterr().err.splitlines()
        assert rows == ["rte train: 6 rows from hub", "rte validation: 4 rows from hub"]
        assert model.startswith(f"roberta_base: FacebookAI/roberta-base at {COMMIT} in ")
        folder = Path(model.partition(" in ")[2])
        assert sorted(path.name for path in folder.iterdir()) == sorted(MODEL.keys() - {"pytorch_model.bin"})
    hub.asked.clear()
    download.hub.content_of(option("rte"), "train")
    assert hub.asked == []


def test_built_in_texts_need_no_download(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "glue", "task=rte,mrpc", "transform=lora", "seed=0")
    assert capsys.readouterr().err == "rte, mrpc: the texts come with the package; there is nothing to fetch\n"


@pytest.mark.usefixtures("_repositories")
def test_a_wrong_count_fails_after_everything_was_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        UserError, match=r"^rte: .*has 6 rows, but `sizes` of conf/task/rte.yaml has 2490.*data.subset=true"
    ):
        run(monkeypatch, *RTE)
    assert "roberta_base: " in capsys.readouterr().err
    run(monkeypatch, *RTE, "data.subset=true")


def test_a_branch_is_fetched_before_the_plan(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = option("e2e")
    content = parquet([{"meaning_representation": "name[A]", "human_reference": "A."}] * 2)
    hub.add("dataset", task.hub.path, export_files(task, content), branch=task.hub.revision)
    hub.add("model", "openai-community/gpt2-medium", MODEL)
    more = [f"model.revision={COMMIT}", "data.subset=true", "seed=0", "transform=lora"]
    run(monkeypatch, "e2e", "profile=paper", *more)
    found = capsys.readouterr().err
    assert all(part in found for part in ("e2e train: 2 rows", "e2e validation: 2 rows", "e2e test: 1 contexts"))
