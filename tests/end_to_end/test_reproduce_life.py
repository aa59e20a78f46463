"""`mtlora.reproduce` beside other processes, with signals, and where a finished run lacks a metric."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.glue_files import write
from helpers.record_files import make_record
from helpers.tiny_runs import holder, record_of
from rich.console import Console

from mtlora import reproduce
from mtlora.base.files import is_held, only_process
from mtlora.base.paths import REPOSITORY
from mtlora.plan.cell import Cell
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import make_plan
from mtlora.score.text import java_works

TINY = ("model=tiny", "task=rte", "transform=lora", "seed=0", "train.limit_examples=64")


def cells_of(experiment: str, *overrides: str) -> list[Cell]:
    return make_plan(load_experiment(experiment), overrides).cells


def start(*arguments: str) -> "subprocess.Popen[str]":
    """Start `python -m mtlora.reproduce ARGUMENTS` from the repository's root."""
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "400"}
    line = [sys.executable, "-m", "mtlora.reproduce", *arguments]
    return subprocess.Popen(
        line, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_cells_that_another_process_trains_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(load_experiment("glue"), (*TINY, "train.epochs=1", f"results={tmp_path}"))
    (cell,) = plan.cells
    naps = []
    with ExitStack() as other:
        other.enter_context(only_process(cell.lock, "busy"))
        make_record(cell, {}, status="running").save(cell.folder)

        def sleep(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 5:  # the other process ends
                make_record(cell, {("accuracy", "validation"): (0.5, 0.5)}).save(cell.folder)
                other.close()

        monkeypatch.setattr(time, "sleep", sleep)
        console = Console(file=io.StringIO(), width=200)
        assert reproduce.run_missing(plan, "local", 1, console) == {}
    assert len(naps) == 5
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("waiting for 1 cell that another process is training") == 1
    assert "sweep of" not in text, "it has nothing to train itself"


@pytest.mark.skipif(not java_works(), reason="Java is missing or does not start")
def test_metrics_that_were_missing_for_want_of_java_are_added(tmp_path: Path) -> None:
    overrides = ("transform=lora", "seed=0", f"results={tmp_path}")
    (cell,) = cells_of("webnlg", *overrides)
    parts = [f"test_{part}" for part in "ASU"]
    make_record(cell, {(name, part): (0.5, 0.5) for name in ("bleu", "ter") for part in parts}).save(cell.folder)
    rows = [
        {"context": f"Ann : knows : {category}", "references": ["Ann knows him."], "category": category}
        for category in (cell.config.task.seen[0], "unseen")
    ]
    lines = [json.dumps(row | {"prediction": "Ann knows him ."}) + "\n" for row in rows]
    write(cell.folder / "predictions.jsonl", "".join(lines))
    process = start("webnlg", *overrides)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "1 cell to run" in errors
    record = record_of(cell)
    assert record.status == "success"
    for part in parts:
        assert record.metric("ter", part) == 0
        assert record.metric("meteor", part) == pytest.approx(1, abs=0.05)
    assert not (cell.folder / "metrics.jsonl").exists(), "nothing was trained"
    again = start("webnlg", *overrides)
    assert "all 1 cells are done already" in again.communicate(timeout=300)[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, 1)])
def test_signals(number: int, code: int, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM reach the children through all processes; a child that is killed is one failed run."""
    overrides = (*TINY, "train.epochs=100000", "train.checkpoint_seconds=1000", f"results={tmp_path}")
    (cell,) = cells_of("glue", *overrides)
    process = start("glue", *overrides, "--jobs", "1")
    deadline = time.monotonic() + 300
    while not (cell.folder / "metrics.jsonl").exists():
        assert time.monotonic() < deadline, "the run has not begun"
        time.sleep(0.05)
    child = holder(cell.lock)
    assert child is not None
    os.kill(child if number == signal.SIGKILL else process.pid, number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    record = record_of(cell)
    if number == signal.SIGKILL:
        assert f"not done: {cell.run_id} (failed): its process was killed by SIGKILL" in errors.replace("\n", " ")
        assert record.status == "failed"
    else:
        assert errors.splitlines()[-1] == "interrupted: run the same command again to continue"
        assert record.status == "interrupted"
        assert (cell.folder / "checkpoint.pt").exists()
    (log,) = (tmp_path / "sweeps").glob("*.log")
    assert "Traceback" not in log.read_text()
    assert not is_held(cell.lock)
