"""Short runs of the tiny random model, shared by the tests of the run's life."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mtlora.base.paths import REPOSITORY
from mtlora.plan.cell import Cell, compose_cell
from mtlora.records.record import RunRecord
from mtlora.train.execution import execute as execute_cells

NO_DROPOUT = (
    "+model.architecture.hidden_dropout_prob=0.0",
    "+model.architecture.attention_probs_dropout_prob=0.0",
)


def overrides(results: Path, *more: str) -> list[str]:
    """64 short texts in batches of 16: four steps an epoch, two epochs; later values win."""
    base = {"model": "tiny", "task": "cola", "rank": "r2", "train.limit_examples": "64", "train.epochs": "2"}
    base |= {"train.log_every": "1", "compute.threads": "1", "results": str(results)}
    base |= dict(item.split("=", 1) for item in more)
    return [f"{key}={value}" for key, value in base.items()]


def cell_in(results: Path, *more: str) -> Cell:
    """Compose a cell; one that differs from an earlier one in the folder and the seed only is a copy of it.

    Composing takes as long as training some of these cells.
    """
    given = overrides(results, *more)
    common = tuple(item for item in given if not item.startswith(("results=", "seed=")))
    seed = next((item.removeprefix("seed=") for item in given if item.startswith("seed=")), "0")
    if "protocol=tuned" in given or not seed.isdecimal() or (one := _composed(common)).parent is not None:
        return compose_cell(given)  # it depends on the folder in other ways, or is a mistake
    return Cell(replace(copy.deepcopy(one.config), results=str(results), seed=int(seed)), tuple(given))


@lru_cache
def _composed(given: tuple[str, ...]) -> Cell:
    return compose_cell(given)


def execute(cell: Cell) -> RunRecord:
    """Train one cell; a failure is raised."""
    return execute_cells([cell])[0].result()


def finish(results: Path, *more: str) -> tuple[RunRecord, Path]:
    """Train a cell; return its record and folder."""
    cell = cell_in(results, *more)
    return execute(cell), cell.folder


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [row["train_loss"] for row in rows(folder) if "train_loss" in row]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def record_of(cell: Cell) -> RunRecord:
    return RunRecord.load(cell.folder / "record.json")


def stop_at(
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    error: BaseException,
    where: str = "mtlora.train.execution.show_progress",
) -> None:
    """Make the next runs raise `error` after an optimizer step."""

    def on_step(done: int, total: int) -> None:
        if done == step:
            raise error

    @contextmanager
    def bar(title: str) -> Iterator[Any]:
        yield on_step

    monkeypatch.setattr(where, bar)


def start(arguments: list[str]) -> "subprocess.Popen[str]":
    """Start `python -m mtlora.train ARGUMENTS` from the repository's root, as a user would."""
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mtlora.train", *arguments]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def assert_same_outcome(one: Path, other: Path) -> None:
    """Metrics, rows, predictions and trained tensors of two folders are bit-identical."""
    first, second = (RunRecord.load(folder / "record.json") for folder in (one, other))
    assert first.status == second.status == "success"
    assert first.metrics == second.metrics
    assert first.epochs == second.epochs
    for name in ("metrics.jsonl", "geometry.jsonl", "predictions.jsonl", "adapter_model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def holder(lock: Path) -> int | None:
    """Return the child that trains a cell: it has the lock's file open. (Its parent may look at it, too.)

    Only the files of children are looked at: tests call this many times a second.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may have ended meanwhile
            if b"mtlora.train.worker" in (process / "cmdline").read_bytes() and any(
                os.readlink(file) == str(lock.resolve()) for file in (process / "fd").iterdir()
            ):
                return int(process.name)
    return None
