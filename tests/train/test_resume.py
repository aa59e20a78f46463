"""Killed runs go on with the same numbers; damaged and foreign checkpoints are refused."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers.tiny_runs import (
    assert_same_outcome,
    cell_in,
    execute,
    finish,
    overrides,
    record_of,
    start,
    stop_at,
    tensors,
)

from mtlora.base.errors import UserError
from mtlora.records.record import record_status
from mtlora.train.model.backbones import load_tokenizer
from mtlora.train.model.build import build_model
from mtlora.train.state import CHECKPOINT

OFTEN = (
    "transform=ctcm",
    "train.epochs=3",
    "train.log_every=2",
    "train.checkpoint_seconds=0",
    "train.weight_decay=0.3",
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("whole"), *OFTEN)[1]


# Four steps an epoch: before, at and behind the end of an epoch, and in the last one. What is no signal leaves no checkpoint.
@pytest.mark.parametrize("step", [1, 3, 4, 5, 7, 12])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(143), OSError("broken")], ids=lambda e: type(e).__name__
)
def test_stopped_run_goes_on_with_the_same_numbers(
    error: BaseException, step: int, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled = not isinstance(error, OSError)
    cell = cell_in(tmp_path, *OFTEN, "train.checkpoint_seconds=0" if not signalled else "train.checkpoint_seconds=1000")
    stop_at(monkeypatch, step, error)
    with pytest.raises(type(error) if signalled else UserError):
        execute(cell)
    assert record_of(cell).status == ("interrupted" if signalled else "failed")
    assert (cell.folder / CHECKPOINT).exists()
    monkeypatch.undo()

    done = []
    with monkeypatch.context() as patch:
        patch.setattr("mtlora.train.execution.show_progress", lambda title: _Bar(done))
        assert execute(cell).status == "success"
    assert len(done) == 12 - step, "it must go on from the checkpoint, not from the beginning"
    assert_same_outcome(cell.folder, uninterrupted)
    assert not (cell.folder / CHECKPOINT).exists()


class _Bar:
    """Stands in for the progress bar and keeps the steps it is told."""

    def __init__(self, done: list[int]):
        self.done = done

    def __enter__(self) -> object:
        return lambda step, total: self.done.append(step)

    def __exit__(self, *error: object) -> None:
        pass


def test_kill_9_and_start_again(tmp_path: Path) -> None:
    more = ["transform=shim", "train.epochs=8", "train.checkpoint_seconds=0"]
    cell = cell_in(tmp_path / "killed", *more)
    process = start(overrides(tmp_path / "killed", *more))
    deadline = time.monotonic() + 60
    while not (cell.folder / CHECKPOINT).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run must not have ended by itself"
    assert record_status(cell.folder) == "running"

    execute(cell)
    _, whole = finish(tmp_path / "whole", *more)
    assert_same_outcome(cell.folder, whole)


def checkpointed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Path:
    """Stop a run behind its first checkpoint; return that file."""
    cell = cell_in(tmp_path, *OFTEN, *more)
    with monkeypatch.context() as patch:
        stop_at(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            execute(cell)
    return cell.folder / CHECKPOINT


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "other tensors", "no optimizer"])
def test_a_damaged_checkpoint_costs_time_only(
    damage: str, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpointed(tmp_path, monkeypatch)
    content = path.read_bytes()
    if damage in ("other tensors", "no optimizer"):
        state = torch.load(path, weights_only=True)
        state["tensors"].popitem() if damage == "other tensors" else state["optimizer"]["param_groups"].clear()
        torch.save(state, path)
    else:
        path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "text": b"no checkpoint"}[damage])
    cell = cell_in(tmp_path, *OFTEN)
    assert execute(cell).status == "success"
    assert f"the checkpoint {path} cannot be used (" in caplog.text
    assert_same_outcome(cell.folder, uninterrupted)


def test_checkpoint_of_another_run_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpointed(tmp_path, monkeypatch)
    other = cell_in(tmp_path, *OFTEN, "seed=1")
    other.folder.mkdir(parents=True)
    path.rename(other.folder / CHECKPOINT)
    assert execute(other).status == "success"
    assert "it belongs to another configuration" in caplog.text
    assert_same_outcome(other.folder, finish(tmp_path / "whole", *OFTEN, "seed=1")[1])


def test_a_checkpoint_of_an_earlier_version_is_used(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpointed(tmp_path, monkeypatch)
    state = torch.load(path, weights_only=True)
    names = {name: name.removesuffix(".weight") if ".mtlora_" in name else name for name in state["tensors"]}
    assert any(name != old for name, old in names.items())
    state["tensors"] = {names[name]: tensor for name, tensor in state["tensors"].items()}
    torch.save(state, path)
    cell = cell_in(tmp_path, *OFTEN)
    assert execute(cell).status == "success"
    assert "cannot be used" not in caplog.text
    assert_same_outcome(cell.folder, uninterrupted)


def test_init_from_starts_from_the_parents_adapter(tmp_path: Path) -> None:
    more = ["transform=icfm", "train.epochs=1"]
    child = cell_in(tmp_path, "task=rte", "init_from=mnli", *more)
    with pytest.raises(UserError, match="init_from=mnli: its run is not finished") as error:
        execute(child)
    message = str(error.value)
    assert "\n" not in message
    assert not child.folder.exists(), "nothing was started, so there is no record"
    command = message.split("`")[1]
    assert command.startswith("python -m mtlora.train ")

    arguments = command.split()[3:]
    assert {"task=mnli", "init_from=none", "transform=icfm", "train.epochs=1"} <= set(arguments)
    _, parent = finish(tmp_path, "task=mnli", *more)
    assert child.parent is not None
    assert parent == child.parent.folder

    record = execute(child)
    assert record.status == "success"
    # A rate too small to move anything shows the start: the parent's adapter, and a head that is not the parent's.
    still = cell_in(tmp_path, "task=rte", "init_from=mnli", *more)
    still.config.train.learning_rate = 1e-30
    execute(still)
    own, inherited = tensors(still.folder), tensors(parent)
    adapter = [name for name in own if "mtlora_" in name]
    assert len(adapter) == 12
    for name in adapter:
        assert torch.equal(own[name], inherited[name]), name
        assert inherited[name].any(), "B has been trained"
    head = "base_model.model.classifier.weight"
    assert own[head].shape == (2, 32)
    assert inherited[head].shape == (3, 32)
    fresh = cell_in(tmp_path, "task=rte", "init_from=none", *more).config
    start_of_task = build_model(fresh, load_tokenizer(fresh.model)).state_dict()
    assert torch.equal(own[head], start_of_task["base_model.model.classifier.modules_to_save.default.weight"])
    assert (
        json.loads((still.folder / "record.json").read_text())["parameters"]["adapter"] == record.parameters["adapter"]
    )
