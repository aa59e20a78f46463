"""Data that are read from a branch of the hub: their identity is the content of the files that are here."""

import argparse
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.glue_files import one_line, option
from helpers.hub_cache import add_commit, use_hub_cache
from rich.console import Console

from mtlora.base.errors import UserError
from mtlora.config.schema import DataConfig
from mtlora.data.hub import NotDownloaded
from mtlora.data.sources import fingerprint, load_contexts, load_split
from mtlora.plan import download
from mtlora.plan.experiment import load_experiment
from mtlora.tables import command

HUB = DataConfig(source="hub")
SPLITS = ("train", "validation", "test")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_hub_cache(tmp_path / "hub", monkeypatch)
    return tmp_path / "hub"


def e2e_files(**texts: str) -> dict[str, bytes]:
    """One row for each split; `texts` are those that differ from the usual one."""
    files = {}
    for split in SPLITS:
        row = {"meaning_representation": f"name[{split}]", "human_reference": texts.get(split, "A.")}
        pq.write_table(pa.Table.from_pylist([row]), stream := io.BytesIO())
        files[split] = stream.getvalue()
    return files


def test_a_branch_is_identified_by_the_content_that_was_downloaded(cache: Path) -> None:
    task = option("e2e")
    add_commit(cache, task, "1" * 40, e2e_files())
    first = fingerprint(task, HUB)
    assert load_split(task, HUB, "train") == {"context": ["name : train"], "text": ["A."], "category": [""]}
    add_commit(cache, task, "2" * 40, e2e_files())
    assert fingerprint(task, HUB) == first
    for commit, split in zip(("3" * 40, "4" * 40, "5" * 40), SPLITS, strict=True):
        add_commit(cache, task, commit, e2e_files(**{split: "Another."}))
        assert fingerprint(task, HUB) != first
        assert load_split(task, HUB, split)["text"] == ["Another."]
    assert load_contexts(task, HUB)[0].references == ("Another.",)


def test_a_pinned_export_is_read_at_its_commit(cache: Path) -> None:
    task = option("e2e")
    add_commit(cache, task, "1" * 40, e2e_files(train="Old."))
    add_commit(cache, task, "2" * 40, e2e_files(train="New."))
    moving = fingerprint(task, HUB)
    task.hub.revision = "1" * 40
    assert fingerprint(task, HUB) != moving
    assert load_split(task, HUB, "train")["text"] == ["Old."]


def test_files_of_a_branch_must_be_here(cache: Path) -> None:
    task = option("e2e")
    with pytest.raises(NotDownloaded, match="run `make download SUITE=e2e PROFILE=paper` first") as error:
        fingerprint(task, HUB)
    one_line(error)
    with pytest.raises(UserError, match=r"cannot load tuetschek/e2e_nlg, default, split train, .*check the network"):
        load_split(task, HUB, "train")
    folder = add_commit(cache, task, "1" * 40, e2e_files())
    fingerprint(task, HUB)
    (folder / "test/0000.parquet").unlink()
    with pytest.raises(NotDownloaded):
        fingerprint(task, HUB)


def test_tables_of_all_experiments_leave_out_those_whose_data_are_not_here(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(command, "experiment_names", lambda *_: ["deberta", "dart"])  # few of all: composing takes time
    overrides = ["profile=paper", "seed=0", "transform=lora", f"results={cache}"]
    plans, _, _ = command.load(argparse.Namespace(experiment="all", overrides=overrides, runs=None))
    assert [plan.experiment.name for plan in plans] == ["deberta"]
    (message,) = caplog.messages
    assert message.startswith("dart is left out: ")
    assert "run `make download SUITE=dart PROFILE=paper` first" in message
    with pytest.raises(NotDownloaded):
        command.load(argparse.Namespace(experiment="dart", overrides=overrides, runs=None))


def test_a_table_needs_a_commit(cache: Path) -> None:
    task = option("rte")
    task.hub.revision = "main"
    with pytest.raises(UserError, match=r"task\.hub\.revision=main of rte can move: name a commit") as error:
        fingerprint(task, HUB)
    one_line(error)


def test_a_download_fetches_what_a_plan_lacks(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def snapshot_download(repository: str, *, revision: str, local_files_only: bool = False, **_: object) -> str:
        if not local_files_only and not cache.exists():
            add_commit(cache, option("e2e"), "1" * 40, e2e_files())
        return real(repository, revision=revision, local_files_only=True, **_)

    import huggingface_hub

    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    plan = download.plan_with_data(load_experiment("e2e"), ["profile=paper", "seed=0"], Console(width=200))
    assert [cell.config.task.name for cell in plan.cells] == ["e2e"] * len(plan.cells)
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == [f"e2e {split}: 1 rows from hub" for split in sorted(SPLITS)]
