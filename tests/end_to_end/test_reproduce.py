"""From the command to the table on the tiny model: stages, launchers, failures, the display and the plan's estimate."""

import io
import json
import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from helpers.glue_files import write, write_official
from helpers.record_files import grid, make_record
from rich.console import Console

from mtlora import reproduce
from mtlora.base.files import only_process
from mtlora.plan.cell import Cell
from mtlora.plan.estimate import duration, estimate
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.plan.show import commands, show
from mtlora.plan.status import statuses
from mtlora.records.record import RunRecord
from mtlora.train.onednn import fp32_matmul_precision, onednn_is_fp32

SHORT = ("model=tiny", "train.limit_examples=64", "train.epochs=1", "seed=0")


def command(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment.pop("HYDRA_FULL_ERROR", None)
    line = [sys.executable, "-m", module, "glue", *arguments]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@lru_cache
def plan_of(*overrides: str) -> Plan:
    return make_plan(load_experiment("glue"), overrides)


def record_times(results: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (results / "runs").rglob("record.json")}


def record_of(cell: Cell) -> RunRecord:
    return RunRecord.load(cell.folder / "record.json")


@pytest.mark.parametrize(
    "launcher", [("--launcher", "local"), ("--jobs", "2"), ("--launcher", "joblib", "--jobs", "2")], ids=lambda x: x[1]
)
def test_from_the_command_to_the_table(launcher: tuple[str, ...], tmp_path: Path) -> None:
    overrides = (*SHORT, "task=rte,stsb", "transform=lora,shim", "init_from=mnli", f"results={tmp_path}/out")
    first = command("mtlora.reproduce", *overrides, *launcher, cwd=tmp_path)
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
    second = command("mtlora.reproduce", *overrides, *launcher, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "all 4 cells are done already" in second.stderr
    assert second.stdout == first.stdout
    assert record_times(tmp_path / "out") == times

    if "joblib" in launcher:  # what follows reads records only
        return
    planned = command("mtlora.plan", *overrides, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "0 cells to run" in planned.stdout
    assert command("mtlora.tables", *overrides, cwd=tmp_path).stdout.strip() == first.stdout.strip()


def test_a_failing_cell_stops_no_other_and_is_listed(tmp_path: Path) -> None:
    root = write_official(tmp_path / "glue")
    broken = write(root / "SST-2/train.tsv", "sentence\tlabel\nfine\t1\nbad\t7\n")
    overrides = ["model=tiny", "train.epochs=1", "seed=0", "task=sst2,rte", "transform=lora", "data.source=local"]
    overrides += [f"data.root={root}", "results=out"]
    failing = command("mtlora.reproduce", *overrides, "--launcher", "local", cwd=tmp_path)
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
    assert not reproduce.run_missing(plan, "local", 1, console)
    assert swept == [["mnli none", "mnli shim"], ["rte shim"]]
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"not done: glue-mnli-tiny-lora-\S+ \(failed\): loss is nan", text)
    assert re.search(r"not done: glue-rte-tiny-lora-\S+ \(missing\): no run was started", text)
    assert text.count("not done") == 2


def test_an_unreadable_record_is_listed_beside_the_others(tmp_path: Path) -> None:
    plan = plan_of(*SHORT, "task=rte", "transform=lora,shim", f"results={tmp_path}")
    torn, missing = plan.cells
    write(torn.folder / "record.json", '{"schema_ver')
    console = Console(file=io.StringIO(), width=1000)
    assert not reproduce.report_failures(plan.cells, console)
    first, second = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert re.search(rf"not done: {torn.run_id} \(failed\): .*record.json is not a readable record .*delete", first)
    assert second == f"not done: {missing.run_id} (missing): no run was started"


def test_a_sweep_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    overrides = (*SHORT, "task=rte", "transform=lora", f"results={tmp_path}/out")
    ended = command("mtlora.reproduce", *overrides, "--launcher", "slrum", cwd=tmp_path)
    assert ended.returncode == 1
    assert "slrum" in ended.stderr.replace("\n", " ")
    assert "Traceback" not in ended.stderr
    assert not record_times(tmp_path / "out")


def test_monitor_counts_records_written_since_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(*SHORT, "task=rte,stsb", "transform=lora,shim", f"results={tmp_path}")
    monkeypatch.setattr(reproduce, "PLAIN_SECONDS", -1.0)
    console = Console(file=io.StringIO(), width=200)
    first, second, third, _ = plan.cells
    make_record(third, {}, status="failed").save(third.folder)  # of an earlier attempt: it does not count

    def line() -> str:
        monitor.look()
        return str(console.file.getvalue()).splitlines()[-1]  # type: ignore[attr-defined]

    with reproduce.Monitor(plan.cells, console) as monitor:
        assert line().startswith("0/4 cells done, ")
        make_record(first, {}, status="running").save(first.folder)
        assert line().startswith("0/4 cells done, ")
        make_record(first, {}).save(first.folder)
        assert re.fullmatch(r"1/4 cells done, .* so far, about \d+ s left", line())
        make_record(second, {}, status="failed").save(second.folder)
        assert line().startswith("2/4 cells done, 1 failed, ")


def test_plan_shows_the_state_of_every_cell(tmp_path: Path) -> None:
    plan = plan_of("profile=paper", "task=rte", "transform=lora,shim,icfm", "seed=0", f"results={tmp_path}")
    parents = plan.stages[0]
    make_record(parents[0], {}).save(parents[0].folder)
    make_record(parents[1], {}, status="failed").save(parents[1].folder)
    make_record(plan.cells[0], {}, status="running").save(plan.cells[0].folder)
    old = (
        plan.cells[1].folder / "record.json"
    )  # written by an older version: to be trained again, as tables leave it out
    make_record(plan.cells[1], {}).save(old.parent)
    old.write_text(old.read_text().replace('"schema_version": 1', '"schema_version": 0'))
    assert statuses(plan)[plan.cells[0].sha] == "interrupted", "no process holds it"
    with only_process(plan.cells[0].lock, "busy"):
        state = statuses(plan)
    assert [state[cell.sha] for cell in parents] == ["done", "failed", "missing"]
    assert [state[cell.sha] for cell in plan.cells] == ["running", "failed", "missing"]
    console = Console(file=io.StringIO(), width=200)
    show(plan, console, 1)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "glue_paper: 6 cells" in text
    assert "5 cells to run" in text
    assert "min one after another (from 1 finished run)" in text


def finish(cell: Cell, seconds: int) -> None:
    record = make_record(cell, {})
    record.cost["seconds"] = 1.0
    record.provenance = {"started": "2026-01-02T03:00:00+00:00", "ended": f"2026-01-02T03:00:{seconds:02}+00:00"}
    record.save(cell.folder)


def test_estimate_from_finished_runs(tmp_path: Path) -> None:
    plan = plan_of("profile=paper", "task=cola", "transform=lora,shim", "seed=0,1", f"results={tmp_path}")
    lora, shim, _, left = plan.cells
    assert (lora.config.seed, left.config.seed, left.config.adapter.structure) == (0, 1, "shim")
    finish(lora, 10)
    cost = estimate([left], plan.cells)
    # CoLA: 8,551 rows forward and backward, 1,043 forward, 80 epochs, 11.3 tokens a row; 85,054,464 parameters.
    assert cost.flops == pytest.approx(2 * 85_054_464 * 11.3 * 80 * (2 * 8551 + 1043))
    assert cost.tokens == pytest.approx(11.3 * 80 * 8551)
    assert cost.seconds == pytest.approx(10), "another structure of the same task tells best"
    assert cost.basis == "from 1 finished run"
    finish(shim, 20)
    cost = estimate([left, left], plan.cells)
    assert cost.seconds == pytest.approx(2 * 20), "now another seed of the same structure does"
    other = plan_of("profile=paper", "task=rte", "transform=lora", "seed=0", f"results={tmp_path}").cells[0]
    mixed = estimate([other], [*plan.cells, other])
    assert mixed.seconds == pytest.approx(15 * mixed.flops / cost.flops * 2), "of another task: by operations"
    assert estimate([]).seconds == 0


def test_estimate_states_its_error(tmp_path: Path) -> None:
    plan = plan_of(*SHORT[:3], "task=rte", "transform=lora,shim,icfm", "seed=0,1", f"results={tmp_path}")
    for cell, seconds in zip(plan.cells[:3], (10, 20, 30), strict=True):
        finish(cell, seconds)
    # from the others: (20 + 30) / 2 for 10, (10 + 30) / 2 for 20, (10 + 20) / 2 for 30: off by 150%, 0% and 50%
    basis = estimate(plan.cells[3:], plan.cells).basis
    assert basis == "from 3 finished runs; a finished one, predicted from the others, is off by 50% in the median"


def test_guess_is_of_the_library_that_runs_use(tmp_path: Path) -> None:
    for choice, expected in (("stock", "ieee"), ("auto", "bf16" if onednn_is_fp32() else "ieee")):
        cells = plan_of(*SHORT, "task=rte", f"compute.cpu_gemm={choice}", f"results={tmp_path}").cells
        assert estimate(cells).basis.startswith("a guess")
        assert fp32_matmul_precision() == expected


def test_runs_of_other_settings_are_stale_and_no_measure(tmp_path: Path) -> None:
    plan = plan_of(*SHORT, "task=rte", "transform=lora", f"results={tmp_path}")
    longer = plan_of(*SHORT[:2], "train.epochs=2", "seed=0", "task=rte", "transform=lora", f"results={tmp_path}")
    finish(longer.cells[0], 30)
    assert list(statuses(plan).values()) == ["stale"]
    assert estimate(plan.cells, plan.cells).basis.startswith("a guess")
    finish(plan.cells[0], 30)
    assert list(statuses(plan).values()) == ["done"]


def test_commands_of_what_is_not_done(tmp_path: Path) -> None:
    plan = plan_of(*SHORT, "task=rte", "transform=lora,shim", "init_from=mnli", f"results={tmp_path}")
    finish(plan.stages[0][0], 10)
    lines = list(commands(plan))
    assert [re.findall(r"task=(\w+)|transform=(\w+)", line) for line in lines] == [
        re.findall(r"task=(\w+)|transform=(\w+)", " ".join(cell.overrides)) for stage in plan.stages for cell in stage
    ][1:]
    assert all(re.match(r"\S*python\S* -m mtlora.train ", line) for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "1.5 min"), (600, "10 min"), (3600, "60 min"), (5400, "1.5 hours")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("module", ["plan", "tables"])
def test_plan_and_tables_start_without_torch(module: str, tmp_path: Path) -> None:
    overrides = ["model=tiny", "task=rte", "transform=lora", "seed=0", f"results={tmp_path}"]
    cell = plan_of(*overrides).cells[0]
    make_record(cell, {("accuracy", "validation"): (0.6, 0.7)}).save(cell.folder)
    code = (
        "import runpy, sys, time\n"
        f"sys.argv = ['x', 'glue', *{overrides!r}]\n"
        f"runpy.run_module('mtlora.{module}', run_name='__main__')\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'evaluate', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert time.process_time() < 8, time.process_time()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("module", "arguments", "named"),
    [
        ("mtlora.reproduce", ("--jobs", "0"), "--jobs 0"),
        ("mtlora.tables", ("--runs", "nowhere"), "--runs nowhere"),
        ("mtlora.plan", ("profile=papre",), "profile=papre"),
    ],
)
def test_a_wrong_argument_is_one_line(module: str, arguments: tuple[str, ...], named: str, tmp_path: Path) -> None:
    ended = command(module, *SHORT, "task=rte", "transform=lora", *arguments, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert re.fullmatch(rf"error: .*{named}.*\n", ended.stderr)
    assert list(tmp_path.iterdir()) == []
