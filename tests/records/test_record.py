"""Records and identities: what a run leaves on disk, and when it counts as the same run."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.glue_files import write_official
from helpers.tiny_runs import cell_in, execute, finish, rows

from mtlora.base.errors import UserError
from mtlora.base.files import write_jsonl
from mtlora.base.paths import REPOSITORY
from mtlora.data.sources import load_split
from mtlora.plan.cell import compose_cell
from mtlora.records.__main__ import main
from mtlora.records.page import markdown
from mtlora.records.record import RunRecord, find_records, record_status
from mtlora.tables.evidence import load_evidence

pytestmark = pytest.mark.xdist_group("record")  # one process trains the run, once


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("results"), "transform=shim")[1]


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy")) / "record.json"


def test_nan_is_never_written(copy: Path, tmp_path: Path) -> None:
    old = copy.read_bytes()
    record = RunRecord.load(copy)
    record.metrics[0]["value"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.save(copy.parent)
    assert copy.read_bytes() == old
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}, {"a": float("inf")}])
    assert not (tmp_path / "rows.jsonl").exists()


def test_round_trip(copy: Path) -> None:
    old = copy.read_bytes()
    record = RunRecord.load(copy)
    record.save(copy.parent)
    assert copy.read_bytes() == old
    assert RunRecord.load(copy) == record


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: "{", "is not a readable record"),
        (lambda values: "[]", "not a JSON object"),
        (lambda values: json.dumps(values | {"schema_version": 2}), "schema version 2, this code reads 1"),
        (lambda values: json.dumps(values | {"extra": 1}), "unknown key extra"),
        (lambda values: json.dumps(values | {"status": "done"}), "unknown status done"),
        (lambda values: json.dumps({k: v for k, v in values.items() if k != "task"}), "task"),
        (lambda values: json.dumps(values | {"rank": 2.5}), "rank is 2.5: "),
        (lambda values: json.dumps(values | {"low_resource": 1}), "low_resource is 1: "),
        (lambda values: json.dumps(values | {"cost": {"hours": 1.0}}), "unknown key cost.hours"),
        (lambda values: json.dumps(values | {"cost": {"seconds": True}}), "cost.seconds is True: "),
        (lambda values: json.dumps(values | {"provenance": {"git": []}}), "provenance.git is []: "),
        (lambda values: json.dumps(values | {"baselines": [{"name": "f1", "split": "a"}]}), "no key baselines.0.value"),
        (lambda values: json.dumps(values | {"metrics": values["metrics"] * 2}), "the same metric twice"),
        (lambda values: "\udcff", "codec"),
    ],
)
def test_what_is_not_a_record_is_one_line(change: object, reason: str, copy: Path) -> None:
    text = change(json.loads(copy.read_text()))  # type: ignore[operator]
    copy.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="is not a readable record") as error:
        RunRecord.load(copy)
    assert reason in str(error.value)
    assert str(copy) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_record_needs_no_optional_key(copy: Path) -> None:
    values = json.loads(copy.read_text())
    for key in ("error", "low_resource", "baselines", "epochs", "parameters", "cost", "provenance"):
        del values[key]
    for entry in values["metrics"]:
        del entry["higher_is_better"]
    record = RunRecord.parse(json.dumps(values))
    assert (record.error, record.low_resource, record.cost, record.provenance) == (None, False, {}, {})
    assert record.metrics == values["metrics"]


def test_the_schema_covers_every_key_that_is_written_and_the_page_shows_it(copy: Path) -> None:
    schema = RunRecord.json_schema()
    values = json.loads(copy.read_text())
    assert set(values) == set(schema["properties"]) == set(schema["required"])
    for part in ("parameters", "cost", "provenance"):
        assert set(values[part]) <= set(schema["$defs"][part.title()]["properties"])
    described = [
        *schema["properties"].values(),
        *(v for d in schema["$defs"].values() for v in d["properties"].values()),
    ]
    assert all(value.get("description") or "$ref" in value for value in described)
    assert (REPOSITORY / "docs" / "records.md").read_text() == markdown(schema) + "\n"


def test_the_schema_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["mtlora.records", "schema"])
    main()
    assert json.loads(capsys.readouterr().out) == RunRecord.json_schema()


def test_status_of_a_folder(copy: Path, tmp_path: Path) -> None:
    assert record_status(copy.parent) == "success"
    assert record_status(tmp_path / "nothing") is None
    copy.write_text(copy.read_text()[:100])
    assert record_status(copy.parent) == "failed"


def test_a_finished_run_is_skipped(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = finished.parents[5]
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    monkeypatch.delattr("mtlora.train.lifecycle.build_model")  # a run that is skipped builds nothing
    record = execute(cell_in(results, "transform=shim"))
    assert record == RunRecord.load(finished / "record.json")
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()} == before


def test_folder_and_names(finished: Path) -> None:
    record = RunRecord.load(finished / "record.json")
    cell = cell_in(finished.parents[5], "transform=shim")
    assert finished.parts[-6:-1] == ("runs", "glue", "cola", "tiny", "shim-r2-qv")
    assert finished.name == f"seed0-{record.config_sha[:8]}"
    assert record.config_sha == cell.sha
    assert record.run_id == f"glue-cola-tiny-shim-r2-qv-seed0-{cell.sha[:8]}"
    assert (record.transform, record.rank, record.seed, record.targets) == ("shim", 2, 0, "qv")
    assert (record.suite, record.task, record.model, record.profile) == ("glue", "cola", "tiny", "mini")
    assert {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "predictions.jsonl"} <= {
        path.name for path in finished.iterdir()
    }
    assert not list(finished.glob(".*")), "no temporary file may stay"
    assert {"git", "packages", "python", "device", "argv", "started", "ended"} <= record.provenance.keys()


def test_metrics_agree_with_predictions_and_epochs(finished: Path, tmp_path: Path) -> None:
    record = RunRecord.load(finished / "record.json")
    config = cell_in(tmp_path).config
    predictions = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    labels = load_split(config.task, config.data, "validation")["label"]
    assert [row["label"] for row in predictions] == labels
    assert [row["index"] for row in predictions] == list(range(len(labels)))
    hits = sum(row["prediction"] == row["label"] for row in predictions)
    assert record.metric("accuracy", "validation") == pytest.approx(hits / len(labels))
    by_epoch = [epoch["metrics"]["validation"]["accuracy"] for epoch in record.epochs]
    assert len(by_epoch) == 2
    assert record.metric("accuracy", "validation", "last") == by_epoch[-1]
    assert record.metric("accuracy", "validation", "best") == max(by_epoch)
    logged = [row["validation/accuracy"] for row in rows(finished) if "validation/accuracy" in row]
    assert logged == by_epoch
    majority = max(labels.count(0), labels.count(1)) / len(labels)
    assert {"name": "accuracy", "split": "validation", "value": pytest.approx(majority)} in record.baselines
    assert record.metric("pearson", "validation") is None


def sha(*overrides: str) -> str:
    return compose_cell(["model=tiny", "task=sst2", *overrides]).sha


@pytest.mark.parametrize(
    "override",
    [
        "results=elsewhere",
        "tracking=wandb",
        "tracking=tensorboard",
        "tracking=trackio",
        "tracking=mlflow",
        "tracking.mode=online",
        "tracking.project=x",
        "compute.threads=2",
        "compute.device=cpu",
        "train.log_every=3",
        "train.checkpoint_seconds=1",
        "task.mean_tokens=1",
        "model.parameters=1",
        "seed=0",
    ],
)
def test_identity_leaves_out_what_cannot_change_a_metric(override: str) -> None:
    assert sha(override) == sha()


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "train.learning_rate=0.1",
        "train.epochs=9",
        "train.limit_examples=5",
        "train.decay_t=false",
        "train.precision=bf16",
        "data.max_length=64",
        "data.order=random",
        "adapter.init_weights=identity",
        "adapter.alpha=1",
        "transform=shim",
        "rank=r4",
        "targets=all",
        "model.target_sets.qv.modules='.*query'",
        "model.head_dropout=0.2",
        "task=rte",
        "init_from=mnli",
        "+model.architecture.hidden_dropout_prob=0.0",
    ],
)
def test_identity_covers_what_can_change_a_metric(override: str) -> None:
    assert sha(override) != sha()


def test_identity_does_not_depend_on_spelling() -> None:
    assert sha("seed=1", "rank=r4") == sha("rank=r4", "seed=1") == sha("adapter.r=4", "seed=1")


def test_the_parent_is_part_of_the_identity() -> None:
    one, two = (compose_cell(["model=tiny", "task=rte", "init_from=mnli", *more]) for more in ([], ["task=stsb"]))
    assert one.parent is not None
    assert two.parent is not None
    assert one.parent.sha == two.parent.sha == compose_cell(["model=tiny", "task=mnli"]).sha
    assert one.identity["parent"] == one.parent.sha


def test_identity_follows_the_content_of_local_data(tmp_path: Path) -> None:
    root = write_official(tmp_path / "glue")
    local = ["data.source=local", f"data.root={root}"]
    first = sha(*local)
    shutil.copytree(root, tmp_path / "moved")
    assert sha("data.source=local", f"data.root={tmp_path / 'moved'}") == first
    file = root / "SST-2/train.tsv"
    file.write_text(file.read_text() + "another film\t1\n")
    assert sha(*local) not in (first, sha())


def test_records_in_hidden_folders_are_no_records(tmp_path: Path) -> None:
    paths = [
        tmp_path / ".hidden/runs" / name / "record.json"
        for name in ("a", ".ipynb_checkpoints", "b/.snapshot/old", "b/c")
    ]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    assert list(find_records(tmp_path / ".hidden/runs")) == [paths[0], paths[3]]


def test_identity_follows_the_content_of_a_snapshot(tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name, content in (("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors", "weights")):
        (snapshot / name).write_text(content)
    first = sha(f"model.path={snapshot}")
    shutil.copytree(snapshot, tmp_path / "moved")
    assert sha(f"model.path={tmp_path / 'moved'}") == first
    (snapshot / "._config.json").write_bytes(b"\0\5\26\7")  # of macOS
    assert sha(f"model.path={snapshot}") == first
    (snapshot / "pytorch_model.bin").write_bytes(b"the same weights, which nothing reads")
    assert sha(f"model.path={snapshot}") == first
    (snapshot / "tokenizer.json").write_text('{"truncation": null}')
    second = sha(f"model.path={snapshot}")
    assert second != first
    (snapshot / "model.safetensors").write_bytes(b"weights, trained longer")
    assert sha(f"model.path={snapshot}") not in (first, second, sha())


def test_records_are_collected_one_a_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = RunRecord.load(finished / "record.json")
    for number, status in enumerate(("success", "running", "success")):
        record.run_id, record.config_sha, record.status = f"run-{9 - number}", f"{number:064x}", status
        record.save(tmp_path / "runs" / f"{number}")
    monkeypatch.setattr("sys.argv", ["records", "collect", str(tmp_path / "runs")])
    main()
    (tmp_path / "records.jsonl").write_text(capsys.readouterr().out)
    found = load_evidence(tmp_path / "records.jsonl")
    assert [record.run_id for record in found.records.values()] == ["run-7", "run-9"], "finished ones, by run_id"
    assert found.problems == []
    monkeypatch.setattr("sys.argv", ["records", "collect", str(tmp_path / "nothing")])
    with pytest.raises(UserError, match="holds no record"):
        main()
