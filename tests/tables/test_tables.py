"""Tables: every number is computed here a second time, from records whose numbers this file chooses."""

import csv
import dataclasses
import importlib
import json
import logging
import re
import shutil
import statistics
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from helpers.glue_files import write_mixed, write_official
from helpers.record_files import grid, make_record, save_record

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.records.collect import collect
from mtlora.records.record import RunRecord
from mtlora.tables.__main__ import main
from mtlora.tables.evidence import load_evidence
from mtlora.tables.view import View
from mtlora.tables.write import write_tables
from mtlora.train.lifecycle import new_record

pytestmark = pytest.mark.xdist_group("tables")  # one process composes each plan, once

CONTRACT = [
    *("table", "suite", "model", "method", "rank", "targets", "task", "split", "metric", "selection"),
    *("n", "mean", "median", "std", "run_ids", "published", "published_source", "difference", "protocol", "variant"),
    *("profile", "data_source", "epochs", "limit"),
]
SEEDS = (0, 1, 2)
RTE, STSB, RANKED = ("accuracy", "validation"), ("pearson", "validation"), ("spearman", "validation")
LAST = {
    ("rte", "lora"): (0.60, 0.62, 0.70),
    ("rte", "shim"): (0.65, 0.61, 0.63),
    ("stsb", "lora"): (0.31, 0.40, 0.35),
    ("stsb", "shim"): (0.45, 0.52, 0.40),
}
BETTER = 0.05  # how much higher the best epoch is than the last
Row = dict[str, str]


@lru_cache
def plan_of(*overrides: str) -> Plan:
    return make_plan(load_experiment("glue"), overrides)


def tiny_plan() -> Plan:
    return plan_of("model=tiny", "task=rte,stsb", "transform=lora,shim", "seed=0,1,2")


def records_of(plan: Plan, baseline: float = 0.1) -> list[RunRecord]:
    records = []
    for cell in plan.cells:
        method = "lora" if cell.config.adapter.structure == "none" else cell.config.adapter.structure
        value = LAST[cell.config.task.name, method][cell.config.seed]
        both = (value, value + BETTER)
        values = {RTE: both} if cell.config.task.name == "rte" else {STSB: both, RANKED: (value / 2, value / 2)}
        records.append(make_record(cell, values, baseline))
    return records


def write(plan: Plan, records: list[RunRecord], folder: Path) -> tuple[str, list[Row]]:
    """Return the Markdown and the rows of the CSV made from the records."""
    for record in records:
        save_record(folder / "runs", record)
    return tables(plan, folder / "runs", folder)


def tables(plan: Plan, runs: Path, folder: Path) -> tuple[str, list[Row]]:
    text = write_tables(View(plan, load_evidence(runs)), folder / "tables")[0]
    with (folder / "tables" / f"{plan.name}.csv").open(newline="", encoding="utf-8") as stream:
        return text, list(csv.DictReader(stream))


def only(rows: list[Row], **wanted: str) -> Row:
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def assert_statistics(row: Row, percent: list[float]) -> None:
    assert int(row["n"]) == len(percent)
    assert float(row["mean"]) == pytest.approx(statistics.mean(percent))
    assert float(row["median"]) == pytest.approx(statistics.median(percent))
    assert float(row["std"]) == pytest.approx(statistics.stdev(percent))


def test_statistics_over_seeds_and_their_runs(tmp_path: Path) -> None:
    records = records_of(tiny_plan())
    _, rows = write(tiny_plan(), records, tmp_path)
    assert list(rows[0]) == CONTRACT
    for (task, method), values in LAST.items():
        metric = "accuracy" if task == "rte" else "pearson"
        for selection, more in (("last", 0.0), ("best", BETTER)):
            row = only(rows, task=task, method=method, metric=metric, selection=selection)
            assert_statistics(row, [100 * (value + more) for value in values])
            ids = {r.run_id for r in records if (r.task, r.transform) == (task, method)}
            assert set(row["run_ids"].split(" ")) == ids
            assert (row["table"], row["suite"], row["model"], row["rank"]) == ("glue", "glue", "tiny", "8")
            assert (row["targets"], row["split"], row["variant"]) == ("qv", "validation", "")
    assert_statistics(only(rows, task="stsb", method="lora", metric="spearman", selection="last"), [15.5, 20.0, 17.5])
    assert len(rows) == 2 * 2 * 4  # methods x selections x (accuracy, pearson, spearman, average)


def test_average_over_tasks(tmp_path: Path) -> None:
    _, rows = write(tiny_plan(), records_of(tiny_plan()), tmp_path)
    for method in ("lora", "shim"):
        by_task = [[100 * LAST[task, method][seed] for seed in SEEDS] for task in ("rte", "stsb")]
        for selection, more in (("last", 0.0), ("best", 100 * BETTER)):
            row = only(rows, task="average", method=method, selection=selection)
            per_seed = [statistics.mean(pair) + more for pair in zip(*by_task, strict=True)]
            assert float(row["mean"]) == pytest.approx(statistics.mean(per_seed))
            assert float(row["std"]) == pytest.approx(statistics.stdev(per_seed))
            assert float(row["median"]) == pytest.approx(statistics.mean(map(statistics.median, by_task)) + more)
            assert (int(row["n"]), len(row["run_ids"].split(" "))) == (3, 6)


def test_markdown_shows_the_values_and_marks_the_best(tmp_path: Path) -> None:
    text, _ = write(tiny_plan(), records_of(tiny_plan()), tmp_path)
    table = grid(text)
    assert list(table) == ["LoRA", "MTLoRA SHIM"]
    assert table["LoRA"]["RTE"] == "**64.00** ± 5.29"
    assert table["MTLoRA SHIM"]["RTE"] == "63.00 ± 2.00"
    assert table["LoRA"]["STS-B"] == "35.33 ± 4.51"
    assert table["MTLoRA SHIM"]["STS-B"] == "**45.67** ± 6.03"
    assert table["MTLoRA SHIM"]["Average of 2"].startswith("**54.33** ±")
    assert table["LoRA"]["Adapter parameters"] == "2,048"
    caption = text.split("\n")[0]
    for part in ("n = 3 of 3 planned", "last epoch", "profile mini", "builtin", "RTE accuracy", "STS-B pearson"):
        assert part in caption
    assert "validation" in caption
    assert "low-resource" not in caption
    assert (tmp_path / "tables" / "glue.md").read_text() == text


def test_selection_rule_of_the_experiment(tmp_path: Path) -> None:
    plan = tiny_plan()
    best = dataclasses.replace(plan, experiment=dataclasses.replace(plan.experiment, selection="best"))
    text, _ = write(best, records_of(plan), tmp_path)
    assert grid(text)["LoRA"]["RTE"] == "**69.00** ± 5.29"
    assert "best epoch" in text.split("\n")[0]


def test_a_missing_cell_has_no_row_and_prints_a_dash(tmp_path: Path) -> None:
    records = [r for r in records_of(tiny_plan()) if (r.task, r.transform) != ("stsb", "shim")]
    text, rows = write(tiny_plan(), records, tmp_path)
    assert not [row for row in rows if row["method"] == "shim" and row["task"] in ("stsb", "average")]
    shown = grid(text)["MTLoRA SHIM"]
    assert (shown["STS-B"], shown["Average of 2"]) == ("–", "–")
    assert shown["RTE"] == "63.00 ± 2.00"
    assert grid(text)["LoRA"]["STS-B"] == "35.33 ± 4.51"  # alone in its column: nothing to be better than


def test_a_missing_run_takes_one_value_of_the_average(tmp_path: Path) -> None:
    records = records_of(tiny_plan())
    for record in records:
        if (record.task, record.transform, record.seed) == ("stsb", "shim", 1):
            record.status = "failed"
    text, rows = write(tiny_plan(), records, tmp_path)
    assert_statistics(only(rows, task="stsb", method="shim", metric="pearson", selection="last"), [45.0, 40.0])
    average = only(rows, task="average", method="shim", selection="last")
    assert float(average["mean"]) == pytest.approx((63 + (45 + 40) / 2) / 2), "each task uses its own seeds"
    assert float(average["std"]) == pytest.approx(statistics.stdev([(65 + 45) / 2, (63 + 40) / 2]))
    assert int(average["n"]) == 2
    assert "n = 2 to 3 of 3 planned" in text


def test_no_records_at_all(tmp_path: Path) -> None:
    text, rows = tables(tiny_plan(), tmp_path / "runs", tmp_path)
    assert rows == []
    assert set(grid(text)["LoRA"].values()) == {"–"}
    assert "n = 0 of 3 planned" in text


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    text, rows = write(tiny_plan(), [r for r in records_of(tiny_plan()) if r.seed == 0], tmp_path)
    assert only(rows, task="rte", method="lora", selection="last")["std"] == ""
    assert grid(text)["LoRA"]["RTE"] == "60.00"


def test_a_task_on_which_nothing_is_learned_is_marked(tmp_path: Path) -> None:
    records = records_of(tiny_plan(), baseline=0.36)  # LoRA: RTE 0.64, STS-B 0.353; SHIM is above it on both
    text, _ = write(tiny_plan(), records, tmp_path)
    assert {"RTE", "STS-B"} <= set(grid(text)["LoRA"])
    assert "LoRA: not above the majority answer on stsb." in text
    text, _ = write(tiny_plan(), records_of(tiny_plan(), baseline=0.46), tmp_path)
    assert {"RTE", "STS-B †"} <= set(grid(text)["LoRA"])
    assert re.search(r"† On stsb no method beats the majority answer\.", text)
    assert "†" not in write(tiny_plan(), records_of(tiny_plan()), tmp_path)[0]


def test_only_the_cells_of_the_plan_enter(tmp_path: Path) -> None:
    text, rows = write(tiny_plan(), records_of(tiny_plan()), tmp_path)
    base = ("model=tiny", "task=rte", "transform=lora", "seed=0")
    for more in (("train.learning_rate=1e-9",), ("profile=paper",), ("rank=r2",), ("train.limit_examples=8",)):
        save_record(tmp_path / "runs", make_record(plan_of(*base, *more).cells[0], {RTE: (0.99, 0.99)}))
    assert len(load_evidence(tmp_path / "runs").records) == 12 + 4
    assert tables(tiny_plan(), tmp_path / "runs", tmp_path) == (text, rows)


def test_another_swept_key_is_a_variant(tmp_path: Path) -> None:
    plan = plan_of("model=tiny", "task=rte", "transform=lora", "seed=0,1", "train.learning_rate=0.001,0.002")
    values = {0.001: (0.50, 0.60), 0.002: (0.70, 0.74)}
    records = []
    for cell in plan.cells:
        value = values[cell.config.train.learning_rate][cell.config.seed]
        records.append(make_record(cell, {RTE: (value, value)}))
    text, rows = write(plan, records, tmp_path)
    for rate, both in values.items():
        row = only(rows, task="rte", variant=f"train.learning_rate={rate}", selection="last")
        assert_statistics(row, [100 * value for value in both])
    assert "train.learning_rate=0.002" in text


@pytest.mark.parametrize(
    ("more", "joined"),
    [
        (("profile=paper",), True),
        (("profile=paper", "data.source=builtin"), False),
        (("profile=paper", "rank=r2"), False),
        (("profile=paper", "targets=official"), False),
        (("profile=paper", "train.epochs=1"), False),
        ((), False),
    ],
)
def test_published_numbers_stand_beside_comparable_runs_only(
    more: tuple[str, ...], joined: bool, tmp_path: Path
) -> None:
    plan = plan_of("model=roberta_base", "task=rte", "transform=lora,shim", "seed=0,1,2", *more)
    # Best epochs 0.87, 0.87, 0.96: the published number is a median of best epochs, so the mean would be wrong.
    records = [make_record(cell, {RTE: (0.85, 0.96 if cell.config.seed == 2 else 0.87)}) for cell in plan.cells]
    _, rows = write(plan, records, tmp_path)
    lora = only(rows, task="rte", method="lora", selection="best")
    shim = only(rows, task="rte", method="shim", selection="best")
    assert (shim["published"], shim["difference"]) == ("", "")
    assert only(rows, task="rte", method="lora", selection="last")["published"] == "", "it is of the best epoch"
    if joined:  # 86.6 is LoRA's RTE in arXiv 2106.09685
        assert (float(lora["published"]), float(lora["difference"])) == (86.6, pytest.approx(87.0 - 86.6))
        assert "2106.09685" in lora["published_source"]
        assert lora["table"] == "glue_paper"
    else:
        assert (lora["published"], lora["published_source"], lora["difference"]) == ("", "", "")


def roberta(**changes: int) -> dict[str, Any]:
    """What `config.json` of FacebookAI/roberta-base says of its architecture, with changes."""
    sizes = {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072, "vocab_size": 50265}
    return {"architectures": ["RobertaForMaskedLM"], "model_type": "roberta", **sizes, **changes}


@pytest.mark.parametrize(
    ("config", "rows", "joined"),
    [
        (roberta(), {"train": 67349, "validation": 872}, True),  # SST-2's official sizes
        (roberta(), {"train": 2, "validation": 872}, False),
        (roberta(), {"train": 67349, "validation": 2}, False),
        (roberta(), None, False),  # a record of before rows were counted
        (roberta(num_hidden_layers=24), {"train": 67349, "validation": 872}, False),
        (roberta(hidden_size=1024), {"train": 67349, "validation": 872}, False),
        (roberta(vocab_size=50257), {"train": 67349, "validation": 872}, False),
        ([], {"train": 67349, "validation": 872}, False),
    ],
)
def test_local_folders_are_comparable_only_with_official_rows_and_architecture(
    config: Any, rows: dict[str, int] | None, joined: bool, tmp_path: Path
) -> None:
    data = write_official(tmp_path / "glue")
    (tmp_path / "model").mkdir()
    for name, content in (("config.json", json.dumps(config)), ("tokenizer.json", "{}"), ("model.safetensors", "")):
        (tmp_path / "model" / name).write_text(content)
    overrides = ["profile=paper", "task=sst2", "transform=lora", "seed=0,1,2"]
    folders = ["data.source=local", f"data.root={data}", f"model.path={tmp_path / 'model'}"]
    plan = make_plan(load_experiment("glue"), [*overrides, *folders])
    records = [make_record(cell, {RTE: (0.94, 0.95)}) for cell in plan.cells]
    for record in records:
        record.provenance |= {"rows": rows} if rows else {}
    _, written = write(plan, records, tmp_path)
    published = {row["published"] for row in written if (row["task"], row["selection"]) == ("sst2", "best")}
    assert published == ({"95.1"} if joined else {""})


def test_hub_rows_of_another_number_are_not_comparable(tmp_path: Path) -> None:
    plan = plan_of("profile=paper", "task=rte", "transform=lora", "seed=0,1")
    records = [make_record(cell, {RTE: (0.85, 0.87)}) for cell in plan.cells]
    records[1].provenance["rows"] = {"train": 2490, "validation": 276}
    _, rows = write(plan, records, tmp_path)
    assert {row["published"] for row in rows} == {""}


def test_a_published_suite_average_is_not_set_beside_one_over_fewer_tasks(tmp_path: Path) -> None:
    plan = plan_of("profile=paper", "task=rte", "transform=lora", "seed=0,1")
    _, rows = write(plan, [make_record(cell, {RTE: (0.85, 0.87)}) for cell in plan.cells], tmp_path)
    assert only(rows, task="average", selection="last")["published"] == ""


def test_records_in_one_json_lines_file(tmp_path: Path) -> None:
    records = records_of(tiny_plan())
    expected = write(tiny_plan(), records, tmp_path)
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records))
    assert tables(tiny_plan(), path, tmp_path / "other") == expected


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study: the records of runs on files that have gone since."""
    root = write_official(tmp_path / "glue")
    overrides = ["model=tiny", "task=stsb,rte", "transform=lora,shim", "seed=0,1,2", "data.source=local"]
    plan = make_plan(load_experiment("glue"), [*overrides, f"data.root={root}"])
    write(plan, records_of(plan), tmp_path / "study")
    lines = "".join(f"{line}\n" for line in collect(tmp_path / "study" / "runs"))
    for folder in (root, tmp_path / "study" / "runs"):
        shutil.rmtree(folder)
    (tmp_path / "study" / "records.jsonl").write_text(lines)
    return tmp_path / "study"


STUDY = ("model=tiny", "task=stsb,rte", "transform=lora,shim", "seed=0,1,2", "data.source=local")


def test_a_study_gives_its_tables_again_without_its_data(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study.rename(study.with_name("it's, (mine)"))  # a name that Hydra's grammar would take apart
    before = {file.name: file.read_bytes() for file in (study / "tables").iterdir()}
    shutil.rmtree(study / "tables")
    # Tasks and methods are those of the records.
    given = ["model=tiny", "data.source=local", "seed=0,1,2"]
    monkeypatch.setattr("sys.argv", ["tables", "glue", "--runs", str(study), *given])
    main()
    assert {file.name: file.read_bytes() for file in (study / "tables").iterdir()} == before
    assert capsys.readouterr().err == f"written to {study / 'tables'}\n"


def test_a_study_outlives_the_code_that_made_it(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (study / "tables" / "glue.csv").read_bytes()
    monkeypatch.setattr("mtlora.plan.cell.TRAINING_VERSION", 99)
    records = [json.loads(line) for line in (study / "records.jsonl").read_text().splitlines()]
    for record in records:  # as if these keys were newer than the study
        del record["config"]["train"]["label_smoothing"], record["config"]["decode"]
    (study / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.setattr("sys.argv", ["tables", "glue", "--runs", str(study), *STUDY])
    main()
    assert (study / "tables" / "glue.csv").read_bytes() == before


def test_a_method_of_another_experiment_of_the_study_adds_no_empty_rows(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (study / "tables" / "glue.md").read_bytes()
    (cell, _) = make_plan(load_experiment("glue"), [*STUDY[:1], "task=stsb", "transform=ctcm", "seed=0,1"]).cells
    other = dataclasses.asdict(make_record(cell, {("pearson", "validation"): (0.5, 0.5)}))
    with (study / "records.jsonl").open("a") as stream:
        stream.write(json.dumps(other) + "\n")
    given = ["model=tiny", "data.source=local", "seed=0,1,2"]
    monkeypatch.setattr("sys.argv", ["tables", "glue", "--runs", str(study), *given])
    main()
    assert (study / "tables" / "glue.md").read_bytes() == before
    assert re.search("1 finished run .* is in no table here: .* transform=ctcm,lora,shim ", capsys.readouterr().err)


def test_a_study_with_two_runs_of_one_configuration_is_refused(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (study / "records.jsonl").read_text()
    other = json.loads(lines.split("\n")[0])
    other |= {"config_sha": "0" * 64, "run_id": "elsewhere"}
    (study / "records.jsonl").write_text(lines + json.dumps(other) + "\n")
    monkeypatch.setattr("sys.argv", ["tables", "glue", "--runs", str(study), *STUDY])
    with pytest.raises(UserError, match="and elsewhere have the same configuration with other data, weights or code"):
        main()


def test_a_study_with_a_damaged_line_is_refused_and_keeps_its_tables(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in (study / "tables").iterdir()}
    lines = (study / "records.jsonl").read_text().splitlines()
    (study / "records.jsonl").write_text("\n".join([*lines[:2], lines[2][:100], *lines[3:]]))
    monkeypatch.setattr("sys.argv", ["tables", "glue", "--runs", str(study), *STUDY])
    with pytest.raises(UserError, match=r"records\.jsonl:3 is no record .*cut short.*: restore the file"):
        main()
    assert {file.name: file.read_bytes() for file in (study / "tables").iterdir()} == before


BROKEN: dict[str, Any] = {
    "truncated": lambda text: text[: len(text) // 2].encode(),
    "empty": lambda text: b"",
    "not text": lambda text: text.encode().replace(b"tiny", b"\xff\xfe"),
    "old schema": lambda text: text.replace('"schema_version": 1', '"schema_version": 0').encode(),
    "nan": lambda text: text.replace('"value": 0.99', '"value": NaN').encode(),
    "infinity": lambda text: text.replace('"value": 0.99', '"value": -Infinity').encode(),
    "list": lambda text: b"[]",
    "no run id": lambda text: text.replace('"run_id"', '"run"').encode(),
    "no metrics' owner": lambda text: re.sub(r'\n "task": "rte",', "", text).encode(),
    "unknown status": lambda text: text.replace('"success"', '"done"').encode(),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_record_is_named_and_left_out(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = records_of(tiny_plan())
    expected = write(tiny_plan(), records[1:], tmp_path)
    text = json.dumps(dataclasses.asdict(make_record(tiny_plan().cells[0], {RTE: (0.99, 0.99)})), indent=1)
    broken = tmp_path / "runs" / "broken" / "record.json"
    broken.parent.mkdir()
    broken.write_bytes(text.encode())
    assert tables(tiny_plan(), tmp_path / "runs", tmp_path / "whole") != expected  # it would count, were it whole
    broken.write_bytes(content := BROKEN[kind](text))
    with caplog.at_level(logging.WARNING):
        assert tables(tiny_plan(), tmp_path / "runs", tmp_path) == expected
    (message,) = caplog.messages
    assert re.fullmatch(f".*{re.escape(str(broken))}.*", message)
    lines = tmp_path / "records.jsonl"
    lines.write_bytes(b" ".join(content.split(b"\n")) + b"\n")
    reason = " holds no record" if kind == "empty" else ":1 is no record"  # a blank line is none
    with pytest.raises(UserError, match=f"{re.escape(str(lines))}{reason}"):
        load_evidence(lines)


def test_tables_hold_no_times_and_are_the_same_twice(tmp_path: Path) -> None:
    write(tiny_plan(), records_of(tiny_plan()), tmp_path)
    files = sorted((tmp_path / "tables").iterdir())
    assert [file.name for file in files] == [
        *("glue.csv", "glue.html", "glue.md", "glue.tex"),
        *("glue_comparisons.csv", "glue_cost.csv"),
    ]
    before = [file.read_bytes() for file in files]
    write(tiny_plan(), records_of(tiny_plan())[::-1], tmp_path)
    assert [file.read_bytes() for file in files] == before
    for content in before:
        assert not re.search(rb"20\d\d-\d\d|\d\d:\d\d", content)


def test_caption_of_partial_training_files_says_low_resource(tmp_path: Path) -> None:
    root = write_mixed(tmp_path / "glue")
    overrides = ["model=tiny", "task=qnli", "transform=lora", "seed=0", "data.source=local", f"data.root={root}"]
    plan = make_plan(load_experiment("glue"), [*overrides, "data.subset=true"])
    record = make_record(plan.cells[0], {RTE: (0.8, 0.8)})
    record.low_resource = new_record(plan.cells[0]).low_resource
    text, _ = write(plan, [record], tmp_path)
    assert "low-resource" in text.split("\n")[0]
    assert "data: local" in text.split("\n")[0]


def test_caption_names_local_files_with_other_numbers_of_rows(tmp_path: Path) -> None:
    root = write_official(tmp_path / "glue")
    plan = plan_of("model=tiny", "task=rte", "transform=lora", "seed=0", "data.source=local", f"data.root={root}")
    sizes = plan.cells[0].config.task.sizes
    for rows, expected in ((sizes, False), (sizes | {"train": 3}, True)):
        record = make_record(plan.cells[0], {RTE: (0.8, 0.8)})
        record.provenance["rows"] = rows
        text, _ = write(plan, [record], tmp_path)
        assert ("the number of rows differs from the official data on rte" in text) is expected


@pytest.mark.parametrize(("rows", "expected"), [({"test": 100}, False), ({"train": 3, "test": 100}, True)])
def test_a_sample_of_the_rows_is_no_other_number_of_rows(rows: dict[str, int], expected: bool, tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text("{}\n")  # only its hash is read
    given = ["model=tiny_gpt2", "transform=lora", "seed=0", "data.source=local", f"data.root={tmp_path}"]
    limits = ["train.limit_examples=20", "train.limit_validation=10", "decode.limit_contexts=100"]
    plan = make_plan(load_experiment("webnlg"), [*given, *limits])
    record = make_record(plan.cells[0], {("bleu", "test_A"): (20.0, 20.0)})
    record.provenance["rows"] = plan.cells[0].config.task.sizes | rows
    text, _ = write(plan, [record], tmp_path)
    assert ("the number of rows differs from the official data on webnlg" in text) is expected


def test_cost_file(tmp_path: Path) -> None:
    write(tiny_plan(), records_of(tiny_plan()), tmp_path)
    with (tmp_path / "tables" / "glue_cost.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["method"], row["task"]) for row in rows} == {(m, t) for t, m in LAST}
    for row in rows:
        assert (int(row["n"]), float(row["adapter_parameters"]), float(row["total_parameters"])) == (3, 2048, 56482)
        assert float(row["seconds"]) == 13.0  # 12, 13 and 14
        assert (float(row["seconds_per_step"]), float(row["tokens_per_second"])) == (2.5, 100.0)
        assert float(row["peak_memory_bytes"]) == 1e9


def diverge(record: RunRecord) -> None:
    record.status, record.diverged, record.error, record.metrics = "failed", True, "diverged: the loss is nan", []


def costs(folder: Path) -> list[Row]:
    with (folder / "tables" / "glue_cost.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_runs_that_diverged_are_counted_and_named(tmp_path: Path) -> None:
    records = records_of(tiny_plan())
    expected = [r for r in records if (r.task, r.transform, r.seed) == ("rte", "shim", 2)]
    for record in expected:
        diverge(record)
    crashed = next(r for r in records if (r.task, r.transform, r.seed) == ("rte", "lora", 0))
    crashed.status, crashed.error = "failed", "out of memory"
    text, rows = write(tiny_plan(), records, tmp_path)
    shown = grid(text)
    assert (shown["LoRA"]["Diverged"], shown["MTLoRA SHIM"]["Diverged"]) == ("0 of 5", "1 of 6"), (
        "a crash is no divergence"
    )
    assert_statistics(only(rows, task="rte", method="shim", selection="last"), [65.0, 61.0])
    assert "MTLoRA SHIM: runs diverged (1 of 3 on rte); its scores are over the others only." in text.split("\n\n")
    counts = {(r["method"], r["task"]): (r["n"], r["runs"], r["diverged"]) for r in costs(tmp_path)}
    assert counts["shim", "rte"] == ("2", "3", "1")
    assert counts["lora", "rte"] == ("2", "2", "0")
    assert counts["shim", "stsb"] == ("3", "3", "0")
    assert all(
        "seed2" not in row["run_ids"] for row in costs(tmp_path) if (row["method"], row["task"]) == ("shim", "rte")
    )


def test_a_task_on_which_every_run_diverged(tmp_path: Path) -> None:
    records = records_of(tiny_plan())
    for record in records:
        if (record.task, record.transform) == ("rte", "shim"):
            diverge(record)
    text, _ = write(tiny_plan(), records, tmp_path)
    shown = grid(text)["MTLoRA SHIM"]
    assert (shown["RTE"], shown["Diverged"]) == ("–", "3 of 6")
    assert "(3 of 3 on rte)" in text
    (row,) = [row for row in costs(tmp_path) if (row["method"], row["task"]) == ("shim", "rte")]
    assert (row["n"], row["runs"], row["diverged"], row["run_ids"], row["seconds"]) == ("0", "3", "3", "", "")


def test_only_runs_that_diverged(tmp_path: Path) -> None:
    records = records_of(tiny_plan())
    for record in records:
        diverge(record)
    text, rows = write(tiny_plan(), records, tmp_path)
    assert rows == []
    assert grid(text)["LoRA"]["Diverged"] == "6 of 6"
    assert {row["n"] for row in costs(tmp_path)} == {"0"}


def test_no_column_without_a_divergence(tmp_path: Path) -> None:
    text, _ = write(tiny_plan(), records_of(tiny_plan()), tmp_path)
    assert "Diverged" not in text
    assert "diverged" not in text
    assert {row["diverged"] for row in costs(tmp_path)} == {"0"}


def test_the_csv_files_tell_short_runs_from_whole_ones(tmp_path: Path) -> None:
    short = plan_of(
        "model=tiny", "task=rte,stsb", "transform=lora,shim", "seed=0,1,2", "train.limit_examples=64", "train.epochs=2"
    )
    _, rows = write(short, records_of(short), tmp_path)
    names = ("profile", "data_source", "epochs", "limit")
    found = {tuple(row[name] for name in names) for row in rows}
    assert found == {("mini", "builtin", "2", "train.limit_examples=64")}
    for name in ("glue_cost", "glue_comparisons"):
        with (tmp_path / "tables" / f"{name}.csv").open(newline="") as stream:
            assert {tuple(row[name] for name in names) for row in csv.DictReader(stream)} == found
    _, rows = write(tiny_plan(), records_of(tiny_plan()), tmp_path / "whole")
    assert {row["limit"] for row in rows} == {""}
    epochs = {row["task"]: row["epochs"] for row in rows}
    assert epochs["average"] == " ".join(sorted({epochs["rte"], epochs["stsb"]}, key=int)), "of all of its tasks"


def test_a_table_that_lacks_runs_of_the_earlier_one_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        write(tiny_plan(), records_of(tiny_plan()), tmp_path)
        tables(tiny_plan(), tmp_path / "runs", tmp_path)
        assert caplog.messages == [], "the same runs again, or more"
        tables(plan_of("model=tiny", "task=rte", "transform=lora,shim", "seed=0"), tmp_path / "runs", tmp_path)
    (line,) = caplog.messages
    epochs = tiny_plan().cells[0].config.train.epochs
    few = f"2 runs (rte; lora, shim; data builtin; epochs {epochs})"
    assert f"{tmp_path}/tables/glue.*: {few} in place of 12 runs (rte, stsb; lora, shim; data builtin" in line
    caplog.clear()
    write(tiny_plan(), records_of(tiny_plan()), tmp_path)
    assert caplog.messages == []


@pytest.mark.parametrize("content", ["", "no,table\n1,2\n", "\0\1"])
def test_another_file_of_that_name_is_no_earlier_table(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "glue.csv").write_text(content)
    write(tiny_plan(), records_of(tiny_plan()), tmp_path)
    assert caplog.messages == []


def test_a_tie_and_a_single_seed_have_no_best(tmp_path: Path) -> None:
    records = records_of(tiny_plan())
    for record in records:
        record.metrics[0]["value"] = 0.6
    text, _ = write(tiny_plan(), records, tmp_path)
    assert [row["RTE"] for row in grid(text).values()] == ["60.00 ± 0.00"] * 2
    text, _ = write(tiny_plan(), [r for r in records_of(tiny_plan()) if r.seed == 0], tmp_path / "one")
    assert [row["STS-B"] for row in grid(text).values()] == ["31.00", "45.00"]


def test_a_single_task_has_no_average(tmp_path: Path) -> None:
    plan = plan_of("model=tiny", "task=rte", "transform=lora,shim", "seed=0,1,2")
    text, _ = write(plan, records_of(plan), tmp_path)
    assert "Average" not in text
    assert "last epoch; RTE: t interval at" in text


def test_cost_has_no_empty_columns(tmp_path: Path) -> None:
    records = records_of(tiny_plan())
    for record in records:
        record.provenance["cohort"] = {"id": "1", "runs": 2, "members": []}
    text, _ = write(tiny_plan(), records, tmp_path)
    cost = text.split("**GLUE: cost**")[1]
    assert "Head parameters" in cost
    assert "ms per step" not in cost
    assert "tokens/s |" not in cost
    assert "not in cohorts: none here" in cost


def test_what_was_never_run_has_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["model=tiny", "task=cola", "transform=lora,shim", "seed=0,1", f"results={tmp_path}"]
    plan = make_plan(load_experiment("glue"), given)
    for cell in plan.cells:
        save_record(tmp_path / "runs", make_record(cell, {("matthews", "validation"): (0.5, 0.5)}))
    monkeypatch.setattr(sys, "argv", ["tables", "all", *given])
    main()
    shown = capsys.readouterr()
    # The ranks have the runs at r = 8 in common with GLUE, and none of their own.
    assert "**GLUE**" in shown.out
    assert "**Rank**" not in shown.out
    assert "no table, because there are no runs: " in shown.err
    assert sorted(path.name for path in (tmp_path / "tables").glob("*.md")) == ["glue.md"]
    rank = make_plan(load_experiment("rank"), given)
    (own, *_) = [cell for cell in rank.cells if cell.config.adapter.r == 2]
    save_record(tmp_path / "runs", make_record(own, {("matthews", "validation"): (0.5, 0.5)}))
    main()
    assert "**Rank**" in capsys.readouterr().out


def test_failed_runs_alone_make_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["model=tiny", "task=cola", "transform=lora", "seed=0", f"results={tmp_path}"]
    (cell,) = make_plan(load_experiment("glue"), given).cells
    record = make_record(cell, {})
    record.status, record.error = "failed", "the disk is full"
    save_record(tmp_path / "runs", record)
    monkeypatch.setattr(sys, "argv", ["tables", "glue", *given])
    main()
    shown = capsys.readouterr()
    assert re.search(
        r"(?m)^no selected run is finished in .*: train with `python -m mtlora\.reproduce glue ", shown.err
    )
    assert shown.out == ""
    assert "failed: the disk is full" in shown.err
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize("module", ["tables", "report"])
@pytest.mark.parametrize(
    ("made", "experiment", "train"),
    [
        ("", "glue", "python -m mtlora.reproduce glue transform=lora"),
        ("", "all", "python -m mtlora.reproduce glue transform=lora"),
        ("1", "all", "make reproduce-glue METHODS=lora"),
    ],
)
def test_without_any_run_one_line_has_the_command_that_trains(
    module: str,
    made: str,
    experiment: str,
    train: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MTLORA_BY_MAKE", made)
    monkeypatch.setattr(sys, "argv", [module, experiment, "transform=lora", f"results={tmp_path}"])
    cli.run(importlib.import_module(f"mtlora.{module}.__main__").main)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"no selected run is finished in {tmp_path / 'runs'}: train with `{train} results={tmp_path}`\n"
    assert list(tmp_path.iterdir()) == []
