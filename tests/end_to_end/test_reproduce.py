"""From the command to the table on the tiny model: stages, launchers, failures, the display and the plan's estimate."""

import importlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.glue_files import write, write_official
from helpers.record_files import grid, make_record
from rich.console import Console

from mtlora import reproduce
from mtlora.base import cli
from mtlora.base.cpu import available_cores
from mtlora.plan.cell import Cell
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.records.record import RunRecord
from mtlora.train.monitor import Monitor

SHORT = ("model=tiny", "train.limit_examples=64", "train.epochs=1", "seed=0")


# As `python -m mtlora.reproduce`, which trains nothing itself, nor does `mtlora.train.sweep`, between it and the children.
WITHOUT_TORCH = """
import runpy, sys
runpy.run_module("mtlora.reproduce", run_name="__main__", alter_sys=True)
import mtlora.train.sweep
assert not {"torch", "transformers", "datasets"} & set(sys.modules)
"""


def command(*line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment.pop("HYDRA_FULL_ERROR", None)
    line = (sys.executable, *line)
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@dataclass
class Called:
    """Runs a command in this process as the entry point would, in a folder."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    cwd: Path

    def __call__(self, module: str, *arguments: str) -> tuple[Any, str, str]:
        """Return the exit code, the standard output and the standard error."""
        self.monkeypatch.chdir(self.cwd)
        self.monkeypatch.setenv("COLUMNS", "200")
        self.monkeypatch.setattr(sys, "argv", [module, "glue", *arguments])
        self.capsys.readouterr()
        code = None
        try:
            cli.run(importlib.import_module(module).main)
        except SystemExit as stop:
            code = stop.code
        return code or 0, *self.capsys.readouterr()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Called:
    return Called(monkeypatch, capsys, tmp_path)


@lru_cache
def plan_of(*overrides: str) -> Plan:
    return make_plan(load_experiment("glue"), overrides)


def record_times(results: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (results / "runs").rglob("record.json")}


def record_of(cell: Cell) -> RunRecord:
    return RunRecord.load(cell.folder / "record.json")


@pytest.mark.parametrize(
    "launcher",
    [("--launcher", "local", "--jobs", "1"), ("--jobs", "2"), ("--launcher", "joblib", "--jobs", "2")],
    ids=lambda x: x[1],
)
def test_from_the_command_to_the_table(launcher: tuple[str, ...], tmp_path: Path, call: Called) -> None:
    overrides = (*SHORT, "task=rte,stsb", "transform=lora,shim", "init_from=mnli", f"results={tmp_path}/out")
    direct = "joblib" not in launcher
    start = ("-c", WITHOUT_TORCH) if direct else ("-m", "mtlora.reproduce")
    first = command(*start, "glue", *overrides, *launcher, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    plan = plan_of(*overrides)
    parents, children = plan.stages
    assert [cell.config.task.name for cell in parents] == ["mnli", "mnli"]
    assert len(children) == 4
    for cell in children:
        assert cell.parent is not None
        parent, child = record_of(cell.parent), record_of(cell)
        assert (parent.status, child.status) == ("success", "success")
        assert (parent.transform, parent.seed) == (child.transform, child.seed)
        assert parent.provenance["ended"] <= child.provenance["started"]
        if direct:
            assert child.provenance["argv"] == ["glue", *overrides, *launcher], "the user's command"
    assert "6 cells to run" in first.stderr
    assert re.search(r"mnli\W+2\W", first.stderr)

    shown = grid(first.stdout)
    assert list(shown) == ["LoRA", "MTLoRA SHIM"]
    for row in shown.values():
        scores = [text.strip("*") for column, text in row.items() if column != "Adapter parameters"]
        assert len(scores) == 3  # RTE, STS-B, average
        assert all(re.fullmatch(r"-?\d+\.\d\d", score) for score in scores)
    assert (tmp_path / "out" / "tables" / "glue.md").read_text().strip() == first.stdout.strip()

    times = record_times(tmp_path / "out")
    assert len(times) == 6
    if "--launcher" in launcher:  # what follows starts no launcher, and reads records only
        return
    code, output, errors = call("mtlora.reproduce", *overrides, *launcher)
    assert code == 0, errors
    assert "all 6 cells are done already" in errors
    assert output == first.stdout
    assert record_times(tmp_path / "out") == times

    code, output, errors = call("mtlora.plan.__main__", *overrides)
    assert code == 0, errors
    assert "0 cells to run" in output
    assert call("mtlora.tables.__main__", *overrides)[1].strip() == first.stdout.strip()


def test_a_failing_cell_stops_no_other_and_is_listed(tmp_path: Path) -> None:
    root = write_official(tmp_path / "glue")
    broken = write(root / "SST-2/train.tsv", "sentence\tlabel\nfine\t1\nbad\t7\n")
    overrides = ["model=tiny", "train.epochs=1", "seed=0", "task=sst2,rte", "transform=lora", "data.source=local"]
    overrides += [f"data.root={root}", "results=out"]
    failing = command("-m", "mtlora.reproduce", "glue", *overrides, "--launcher", "local", cwd=tmp_path)
    assert failing.returncode == 1
    assert "Traceback" not in failing.stderr
    assert re.search(
        rf"not done: glue-sst2-tiny-lora-\S+ \(failed\): {broken}:3: label '7'", failing.stderr.replace("\n", "")
    )
    assert "not done: glue-rte" not in failing.stderr
    assert failing.stderr.splitlines()[-1].startswith("error: some cells are not done")
    states = {
        path.parts[-5]: json.loads(path.read_text())["status"] for path in (tmp_path / "out").rglob("record.json")
    }
    assert states == {"sst2": "failed", "rte": "success"}
    row = {column.strip(" †"): text for column, text in grid(failing.stdout)["LoRA"].items()}
    assert (row["SST-2"], row["Average of 2"]) == ("–", "–")
    assert re.fullmatch(r"\d+\.\d\d", row["RTE"])


def test_children_of_a_failed_parent_are_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(*SHORT, "task=rte", "transform=lora,shim", "init_from=mnli", f"results={tmp_path}")
    swept: list[list[str]] = []

    def sweep(plan: Plan, stage: int, cells: list[Cell], *_: Any) -> None:
        swept.append([f"{cell.config.task.name} {cell.config.adapter.structure}" for cell in cells])
        for cell in cells:
            failed = stage == 0 and cell.config.adapter.structure == "none"
            record = make_record(cell, {}, status="failed" if failed else "success")
            record.error = "loss is nan" if failed else None
            record.save(cell.folder)

    monkeypatch.setattr(reproduce, "sweep", sweep)
    console = Console(file=io.StringIO(), width=200)
    assert sorted(reproduce.run_missing(plan, "local", 1, console).values()) == ["failed", "missing"]
    assert swept == [["mnli none", "mnli shim"], ["rte shim"]]
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"not done: glue-mnli-tiny-lora-\S+ \(failed\): loss is nan", text)
    why = r"it starts from glue-mnli-tiny-lora-\S+, which is not done \(failed\): loss is nan"
    assert re.search(rf"not done: glue-rte-tiny-lora-\S+ \(missing\): {why}", text)
    assert text.count("not done: ") == 2


def test_the_lines_about_epochs_are_shown_while_a_sweep_runs(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    log = write(tmp_path / "sweep.log", "training 2 runs of rte\n2 runs of rte: epoch 1 of 2, loss 0.7")
    with Monitor([], console) as monitor:
        monitor.log = log
        monitor.look()
        with log.open("a") as stream:
            stream.write("\nrte: done\n2 runs of rte: epoch 2 of 2, loss 0.6\n")
        monitor.look()
        monitor.look()
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert shown == ["2 runs of rte: epoch 1 of 2, loss 0.7", "2 runs of rte: epoch 2 of 2, loss 0.6"], (
        "whole lines, once"
    )


def test_an_unreadable_record_is_listed_beside_the_others(tmp_path: Path) -> None:
    plan = plan_of(*SHORT, "task=rte", "transform=lora,shim", f"results={tmp_path}")
    torn, missing = plan.cells
    write(torn.folder / "record.json", '{"schema_ver')
    console = Console(file=io.StringIO(), width=1000)
    assert set(reproduce.report_failures(plan.cells, console).values()) == {"failed", "missing"}
    first, second = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert re.search(rf"not done: {torn.run_id} \(failed\): .*record.json is not a readable record .*delete", first)
    assert second == f"not done: {missing.run_id} (missing): no run was started"


def test_a_sweep_that_cannot_start_is_one_line(tmp_path: Path, call: Called) -> None:
    overrides = (*SHORT, "task=rte", "transform=lora", f"results={tmp_path}/out")
    code, _, errors = call("mtlora.reproduce", *overrides, "--launcher", "slrum")
    assert code == 1
    assert "slrum" in errors.replace("\n", " ")
    assert "Traceback" not in errors
    assert not record_times(tmp_path / "out")


def test_monitor_counts_records_written_since_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(*SHORT, "task=rte,stsb", "transform=lora,shim", f"results={tmp_path}")
    monkeypatch.setattr("mtlora.train.monitor.PLAIN_SECONDS", -1.0)
    console = Console(file=io.StringIO(), width=200)
    first, second, third, _ = plan.cells
    make_record(third, {}, status="failed").save(third.folder)  # of an earlier attempt: it does not count

    def line() -> str:
        monitor.look()
        return str(console.file.getvalue()).splitlines()[-1]  # type: ignore[attr-defined]

    with Monitor(plan.cells, console) as monitor:
        assert line().startswith("0/4 cells done, ")
        make_record(first, {}, status="running").save(first.folder)
        assert line().startswith("0/4 cells done, ")
        make_record(first, {}).save(first.folder)
        assert re.fullmatch(r"1/4 cells done, .* so far, about \d+ s left", line())
        make_record(second, {}, status="failed").save(second.folder)
        assert line().startswith("2/4 cells done, 1 failed, ")
        make_record(second, {}, status="running").save(second.folder)
        assert line().startswith("1/4 cells done, "), "it is tried again"
        assert "failed" not in line()
        make_record(second, {}).save(second.folder)
        assert line().startswith("2/4 cells done, ")
        assert "failed" not in line()


@pytest.mark.parametrize(("modules", "finished"), [(("plan", "tables", "reproduce"), True), (("plan",), False)])
def test_plan_and_tables_start_without_torch(modules: tuple[str, ...], finished: bool, tmp_path: Path) -> None:
    overrides = ["model=tiny", "task=rte", "transform=lora", "seed=0", f"results={tmp_path}"]
    cell = plan_of(*overrides).cells[0]
    if finished:
        make_record(cell, {("accuracy", "validation"): (0.6, 0.7)}).save(cell.folder)
    code = (
        "import runpy, sys, time\n"
        f"for module in {modules!r}:\n"
        f"    sys.argv = ['x', 'glue', *{overrides!r}]\n"
        "    runpy.run_module(f'mtlora.{module}', run_name='__main__')\n"
        "    heavy = {'torch', 'transformers', 'peft', 'datasets', 'evaluate', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "    assert not heavy, (module, heavy)\n"
        "    assert time.process_time() < 8, (module, time.process_time())\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert "Warning" not in ended.stderr, "importing the package says nothing"


@pytest.mark.parametrize(
    ("module", "arguments", "named"),
    [
        ("mtlora.reproduce", ("--jobs", "0"), "--jobs 0"),
        ("mtlora.tables.__main__", ("--runs", "nowhere"), "--runs nowhere"),
        ("mtlora.plan.__main__", ("profile=papre",), "profile=papre"),
    ],
)
def test_a_wrong_argument_is_one_line(
    module: str, arguments: tuple[str, ...], named: str, tmp_path: Path, call: Called
) -> None:
    code, output, errors = call(module, *SHORT, "task=rte", "transform=lora", *arguments)
    assert code == 1
    assert output == ""
    assert re.fullmatch(rf"error: .*{named}.*\n", errors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "profile", "launcher", "jobs"),
    [
        ([], "paper", "cohort", 1),
        ([], "mini", "cohort", available_cores()),
        (["--launcher", "local"], "paper", "local", 1),
        (["--jobs", "3"], "paper", "cohort", 3),
        (["--launcher", "slurm"], "paper", "slurm", None),
    ],
)
def test_cohorts_are_the_default_of_every_profile(
    given: list[str], profile: str, launcher: str, jobs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce", "glue", *given])
    monkeypatch.setattr(reproduce, "handle_signals", lambda: None)
    arguments, _ = reproduce.start("mtlora.reproduce", "")
    assert reproduce.launching(arguments, SimpleNamespace(profile=profile)) == (launcher, jobs)  # type: ignore[arg-type]
