"""What cannot be used is named, and the table stays right: holes, failures, other data, other code, broken files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.record_files import make_record, save_record

from mtlora.base.errors import UserError
from mtlora.plan.cell import compose_cell
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.records.record import RunRecord
from mtlora.tables.command import outside
from mtlora.tables.evidence import load_evidence
from mtlora.tables.view import View
from mtlora.tables.write import all_tables

ACCURACY = ("accuracy", "validation")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(load_experiment("glue"), ["model=tiny", "task=rte", "transform=lora,shim", "seed=0,1,2"])


def records(plan: Plan) -> list[RunRecord]:
    made = []
    for number, cell in enumerate(plan.cells):
        record = make_record(cell, {ACCURACY: (0.5 + number / 100, 0.6)})
        identity = cell.identity
        record.provenance |= {name: identity[name] for name in ("data_content", "versions", "model_content", "parent")}
        record.provenance["git"] = {"commit": "a" * 40, "dirty": False}
        made.append(record)
    return made


def view(plan: Plan, made: list[RunRecord], runs: Path) -> View:
    for record in made:
        save_record(runs, record)
    return View(plan, load_evidence(runs))


def accuracies(found: View) -> dict[tuple[str, int], float]:
    """(method, n) -> mean of the last epoch."""
    table = found.summary
    rows = table[(table["task"] == "rte") & (table["selection"] == "last")]
    return {(row["method"], row["n"]): row["mean"] for row in rows.to_dict("records")}


def test_all_there(plan: Plan, tmp_path: Path) -> None:
    found = view(plan, records(plan), tmp_path)
    assert found.problems == []
    assert set(accuracies(found)) == {("lora", 3), ("shim", 3)}


def test_failed_interrupted_killed_and_missing_runs_are_named(plan: Plan, tmp_path: Path) -> None:
    made = records(plan)
    made[0].status, made[0].error = "failed", "the training loss is nan"
    made[1].status, made[1].error = "interrupted", "KeyboardInterrupt"
    made[2].status = "running"
    found = view(plan, made[:5], tmp_path)
    lines = "\n".join(found.problems)
    assert f"{made[0].run_id} failed: the training loss is nan" in lines
    assert f"{made[1].run_id} interrupted: KeyboardInterrupt" in lines
    assert f"{made[2].run_id} is running, or was killed" in lines
    assert f"rte {plan.cells[5].label} (protocol matched): 1 run not made yet" in lines
    assert len(found.problems) == 4
    assert set(accuracies(found)) == {("lora", 1), ("shim", 1)}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("data_content", "0" * 64, "other data"),
        ("versions", [1, 0], "another version of the training or metric code"),
        ("model_content", "x@y", "other weights"),
    ],
)
def test_the_same_configuration_on_other_content_is_named(
    key: str, value: Any, reason: str, plan: Plan, tmp_path: Path
) -> None:
    made = records(plan)
    other = made[0]
    other.provenance[key] = value
    other.config_sha, other.run_id = "f" * 64, other.run_id[:-8] + "f" * 8
    found = view(plan, made, tmp_path)
    (line,) = found.problems
    assert line == f"{other.run_id} is left out: the same configuration with {reason}"
    assert set(accuracies(found)) == {("lora", 2), ("shim", 3)}


def test_another_configuration_is_no_problem(plan: Plan, tmp_path: Path) -> None:
    save_record(
        tmp_path, make_record(compose_cell(["model=tiny", "task=rte", "train.epochs=7"]), {ACCURACY: (0.9, 0.9)})
    )
    assert view(plan, records(plan), tmp_path).problems == []


def test_uncommitted_code_on_another_commit_is_left_out(plan: Plan, tmp_path: Path) -> None:
    made = records(plan)
    made[0].provenance["git"] = {"commit": "b" * 40, "dirty": True}
    made[1].provenance["git"] = {"commit": "b" * 40, "dirty": False}  # a clean checkout says what it computed
    made[2].provenance["git"] = {"commit": "a" * 40, "dirty": True}
    found = view(plan, made, tmp_path)
    (line,) = found.problems
    assert line.startswith(f"{made[0].run_id} is left out: trained with uncommitted code on commit bbbbbbbbbb")
    assert set(accuracies(found)) == {("lora", 2), ("shim", 3)}


def test_runs_of_uncommitted_code_are_counted_below_the_table(plan: Plan, tmp_path: Path) -> None:
    made = records(plan)
    assert all_tables(view(plan, made, tmp_path / "clean"))[0].notes == []
    for record in made[:2]:
        record.provenance["git"]["dirty"] = True  # on the commit of the others
    scores, *_ = all_tables(view(plan, made, tmp_path / "mixed"))
    (note,) = scores.notes
    assert note.startswith("2 of 6 runs come from a checkout with uncommitted changes")


def test_a_metric_that_a_record_lacks_is_named(plan: Plan, tmp_path: Path) -> None:
    made = records(plan)
    made[0].metrics = []
    found = view(plan, made, tmp_path)
    assert found.problems == [f"{made[0].run_id} has no accuracy on validation: the same command scores it again"]


def test_two_records_of_one_run_with_other_metrics(plan: Plan, tmp_path: Path) -> None:
    made = records(plan)
    for record in made:
        save_record(tmp_path / "a", record)
    copy = dataclasses.replace(made[0], metrics=make_record(plan.cells[0], {ACCURACY: (0.9, 0.9)}).metrics)
    save_record(tmp_path / "b", copy)
    evidence = load_evidence(tmp_path)
    (line,) = evidence.problems
    assert line.endswith(f"another record of the same run, {made[0].run_id}, has other metrics")
    assert accuracies(View(plan, evidence))["lora", 3] == pytest.approx(100 * (0.50 + 0.52 + 0.54) / 3)


ENTRY = {"name": "accuracy", "split": "validation", "selection": "last", "value": 0.5}
WRONG: dict[str, dict[str, Any]] = {
    "a metric that is a text": {"metrics": [ENTRY | {"value": "1"}]},
    "a metric that is huge": {"metrics": [ENTRY | {"value": 10**400}]},
    "a metric without a split": {"metrics": [{"name": "accuracy", "selection": "last", "value": 1.0}]},
    "a metric whose split is a list": {"metrics": [ENTRY | {"split": ["validation"]}]},
    "a metric whose name is an object": {"metrics": [ENTRY | {"name": {}}]},
    "a metric whose selection is a list": {"metrics": [ENTRY | {"selection": []}]},
    "an unknown metric": {"metrics": [ENTRY | {"name": "charm"}]},
    "a metric twice": {"metrics": [ENTRY, ENTRY | {"value": 0.6}]},
    "metrics that are no objects": {"metrics": [1]},
    "metrics that are no list": {"metrics": 3},
    "a huge baseline": {"baselines": [{"name": "accuracy", "split": "validation", "value": 10**400}]},
    "a seed that is a text": {"seed": "0"},
    "a run id that is a number": {"run_id": 7},
    "a configuration that is a list": {"config": []},
    "parameters that are a text": {"parameters": {"adapter": "many"}},
    "a cost that is huge": {"cost": {"seconds": 10**400}},
    "a git state that is a text": {"provenance": {"git": "abc"}},
    "a commit that is a list": {"provenance": {"git": {"commit": []}}},
    "a dirty state that is a text": {"provenance": {"git": {"commit": "a", "dirty": "yes"}}},
    "packages that are a list": {"provenance": {"packages": ["torch"]}},
}


@pytest.mark.parametrize("kind", WRONG)
def test_contents_of_the_wrong_kind(kind: str, plan: Plan, tmp_path: Path) -> None:
    made = records(plan)
    for record in made[1:]:
        save_record(tmp_path, record)
    path = tmp_path / "wrong" / "record.json"
    path.parent.mkdir()
    path.write_text(json.dumps(dataclasses.asdict(made[0]) | WRONG[kind]))
    found = View(plan, load_evidence(tmp_path))
    assert len(found.evidence.problems) == 1
    assert str(path) in found.evidence.problems[0]
    assert set(accuracies(found)) == {("lora", 2), ("shim", 3)}


def test_a_record_that_is_a_folder_or_too_deep(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "folder" / "record.json").mkdir(parents=True)
    deep = tmp_path / "deep" / "record.json"
    deep.parent.mkdir()
    deep.write_text("[" * 100_000)
    found = view(plan, records(plan), tmp_path)
    assert len(found.evidence.problems) == 2
    assert set(accuracies(found)) == {("lora", 3), ("shim", 3)}


def test_infinity_written_as_a_large_number(plan: Plan, tmp_path: Path) -> None:
    path = save_record(tmp_path, records(plan)[0])
    path.write_text(path.read_text().replace('"value": 0.5', '"value": 1e999'))
    assert "finite value" in load_evidence(tmp_path).problems[0]


def test_sparse_records_of_success_do_not_stop_the_tables(plan: Plan, tmp_path: Path) -> None:
    made = records(plan)
    made[0].cost, made[0].parameters, made[0].provenance = {}, {}, {}
    made[1].cost = {"train_seconds": 1.0, "steps": 0}
    found = view(plan, made, tmp_path)
    assert pd.notna(found.cost["seconds_per_step"]).all()
    assert len(all_tables(found)) >= 3
    assert set(accuracies(found)) == {("lora", 3), ("shim", 3)}


def test_a_record_whose_provenance_contradicts_its_identity_is_left_out(plan: Plan, tmp_path: Path) -> None:
    made = records(plan)
    made[3].provenance["data_content"] = "0" * 64
    found = view(plan, made, tmp_path)
    (line,) = found.problems
    assert line.startswith(f"{made[3].run_id} is left out: its provenance names other data than its config_sha")
    assert {key[1] for key in accuracies(found) if key[0] == "shim"} == {2}


@pytest.mark.parametrize(
    ("metric", "value"), [("accuracy", 78.5), ("accuracy", -0.1), ("matthews", -1.5), ("bleu", 101.0)]
)
def test_a_value_outside_its_metrics_range_is_refused(metric: str, value: float, plan: Plan, tmp_path: Path) -> None:
    made = records(plan)
    made[0].metrics.append(dict(made[0].metrics[0], name=metric, split="test", value=value))
    found = view(plan, made, tmp_path)
    (line,) = found.evidence.problems
    assert f"{metric} on test is {value:g}, its range is" in line
    assert [line for line in found.problems if made[0].run_id not in line] == [
        f"rte {plan.cells[0].label} (protocol matched): 1 run not made yet"
    ]


def test_finished_runs_that_nothing_selects_are_named(plan: Plan, tmp_path: Path) -> None:
    found = view(plan, records(plan), tmp_path)
    assert outside([found]) == []
    narrow = make_plan(plan.experiment, ["model=tiny", "task=rte", "transform=lora", "seed=0,1"])
    (line,) = outside([View(narrow, found.evidence)])
    assert line == (
        "4 finished runs of this profile are in no table here: "
        "python -m mtlora.tables glue seed=0,1,2 task=rte transform=lora,shim model=tiny"
    )
    (line,) = outside([View(narrow, found.evidence)], lambda word: word.replace("tiny", "small"))
    assert line.endswith("here: make tables SUITE=glue SEEDS=0,1,2 TASKS=rte METHODS=lora,shim model=small"), (
        "on a page"
    )
    both = make_plan(plan.experiment, ["model=tiny", "task=rte", "transform=lora,shim", "seed=2"])
    assert "2 finished runs" in outside([View(own, found.evidence) for own in (narrow, both)])[0]


def test_a_mean_of_fewer_seeds_says_so_and_is_not_the_best(plan: Plan, tmp_path: Path) -> None:
    made = records(plan)
    made[1].status = "failed"
    scores, *_ = all_tables(view(plan, made, tmp_path))
    lora, shim = scores.rows
    assert shim[1].text.endswith("(n = 2)")
    assert shim[1].value is not None
    assert lora[1].value is not None
    assert shim[1].value > lora[1].value
    assert not shim[1].bold


def test_a_records_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "records.jsonl"
    file.touch()

    def broken(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(UserError, match=r"records\.jsonl cannot be read \(Permission denied\)"):
        load_evidence(file)
