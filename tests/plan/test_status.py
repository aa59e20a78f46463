"""The state of every cell, and how `mtlora.plan` shows it."""

import io
import json
import re
from functools import lru_cache
from pathlib import Path

import pytest
from helpers.record_files import make_record
from rich.console import Console

from mtlora.base.files import only_process
from mtlora.plan.cell import Cell, compose_cell
from mtlora.plan.estimate import estimate
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.plan.show import commands, show
from mtlora.plan.status import State, lacking_metrics, reason_of, state_of, statuses

SHORT = ("model=tiny", "train.limit_examples=64", "train.epochs=1", "seed=0")


@lru_cache
def plan_of(*overrides: str) -> Plan:
    return make_plan(load_experiment("glue"), overrides)


def test_plan_shows_the_state_of_every_cell(tmp_path: Path) -> None:
    plan = plan_of("profile=paper", "task=rte", "transform=lora,shim,icfm", "seed=0", f"results={tmp_path}")
    parents = plan.stages[0]
    trained = make_record(parents[0], {})
    trained.cost["seconds"] = 60.0
    trained.save(parents[0].folder)
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


@pytest.mark.parametrize(("methods", "hinted"), [("shim", True), ("lora,shim", False)])
def test_a_plan_without_lora_says_what_the_table_will_lack(methods: str, hinted: bool, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    show(plan_of(*SHORT, "task=rte", f"transform={methods}", f"results={tmp_path}"), console, 1)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("lora is not among the methods" in text) is hinted


def test_runs_of_other_settings_are_missing_and_no_measure(tmp_path: Path) -> None:
    plan = plan_of(*SHORT, "task=rte", "transform=lora", f"results={tmp_path}")
    longer = plan_of(*SHORT[:2], "train.epochs=2", "seed=0", "task=rte", "transform=lora", f"results={tmp_path}")
    make_record(longer.cells[0], {}).save(longer.cells[0].folder)
    assert list(statuses(plan).values()) == ["missing"]
    assert estimate(plan.cells, plan.cells).basis.startswith("a guess")
    make_record(plan.cells[0], {}).save(plan.cells[0].folder)
    assert list(statuses(plan).values()) == ["done"]


@pytest.fixture
def scored_without_java(tmp_path: Path) -> Cell:
    """A finished WebNLG run, decoded for one context of a seen category, with BLEU and TER only."""
    (cell,) = make_plan(load_experiment("webnlg"), ["transform=lora", "seed=0", f"results={tmp_path}"]).cells
    make_record(cell, {(name, split): (0.5, 0.5) for name in ("bleu", "ter") for split in ("test_A", "test_S")}).save(
        cell.folder
    )
    row = {"context": "Ann : knows : Bo", "references": ["Ann knows Bo."], "category": cell.config.task.seen[0]}
    (cell.folder / "predictions.jsonl").write_text(json.dumps(row | {"prediction": "Ann knows Bo ."}) + "\n")
    return cell


def test_a_run_without_a_metric_that_can_be_had_here_is_not_done(
    scored_without_java: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = scored_without_java
    monkeypatch.setattr("mtlora.plan.status.java_works_here", lambda: True)
    assert state_of(cell) == State.UNSCORED
    assert lacking_metrics(cell) == ["meteor on test_A", "meteor on test_S"], "no context is of an unseen category"
    values = {(name, split): (0.5, 0.5) for name in ("bleu", "ter", "meteor") for split in ("test_A", "test_S")}
    make_record(cell, values).save(cell.folder)
    assert state_of(cell) == State.DONE


def test_a_run_is_done_without_the_metrics_that_cannot_be_had(
    scored_without_java: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = scored_without_java
    monkeypatch.setattr("mtlora.plan.status.java_works_here", lambda: False)
    assert state_of(cell) == State.DONE
    monkeypatch.setattr("mtlora.plan.status.java_works_here", lambda: True)
    (cell.folder / "predictions.jsonl").unlink()
    assert state_of(cell) == State.DONE, "without its texts, nothing can score it again"


def test_commands_of_what_is_not_done(tmp_path: Path) -> None:
    plan = plan_of(*SHORT, "task=rte", "transform=lora,shim", "init_from=mnli", f"results={tmp_path}")
    make_record(plan.stages[0][0], {}).save(plan.stages[0][0].folder)
    lines = list(commands(plan))
    assert [re.findall(r"task=(\w+)|transform=(\w+)", line) for line in lines] == [
        re.findall(r"task=(\w+)|transform=(\w+)", " ".join(cell.overrides)) for stage in plan.stages for cell in stage
    ][1:]
    assert all(re.match(r"\S*python\S* -m mtlora.train ", line) for line in lines)
    diverged = make_record(plan.stages[0][1], {})
    diverged.status, diverged.diverged, diverged.error = "failed", True, "the training loss is nan"
    diverged.save(plan.stages[0][1].folder)
    assert list(commands(plan)) == lines[1:], "a repetition would diverge, too"


def test_a_cell_whose_parent_failed_says_why(tmp_path: Path) -> None:
    given = ["model=tiny", "task=rte", "init_from=mnli", "data.source=builtin", f"results={tmp_path}"]
    child = compose_cell(given)
    assert child.parent is not None
    assert reason_of(child, State.MISSING).endswith("which is not done (missing): no run was started")
    record = make_record(child.parent, {})
    record.status, record.error = "failed", "the training loss is nan"
    record.save(child.parent.folder)
    expected = f"it starts from {child.parent.run_id}, which is not done (failed): the training loss is nan"
    assert reason_of(child, state_of(child)) == expected
