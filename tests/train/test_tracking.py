"""Trackers: each receives the numbers of a run and changes nothing. Real packages where they are installed, else stand-ins."""

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.glue_files import one_line
from helpers.record_files import make_record
from helpers.tiny_runs import assert_same_outcome, cell_in, execute, finish, record_of, rows, stop_at, tensors

from mtlora.base.errors import UserError
from mtlora.plan.cell import Cell
from mtlora.train.execution import execute as execute_cells
from mtlora.train.tracking import TRACKERS, NullTracker, make_tracker, untracked

PACKAGES = ("tensorboard", "trackio", "mlflow")
Points = dict[str, list[tuple[int, float]]]  # metric -> (step, value) in the order of the steps


@pytest.fixture(autouse=True, scope="module")
def _one_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trackio reads its folder when it is imported, so all tests share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    pytest.importorskip(name, reason=f"the extra {name} is not installed")
    return name


def expected(folder: Path) -> Points:
    """Return the numbers of metrics.jsonl, which has each step once."""
    points: Points = {}
    for row in rows(folder):
        for name, value in row.items():
            if name != "step" and not (name == "epoch" and "train_loss" not in row):
                points.setdefault(name, []).append((row["step"], value))
    return points


def tracked(cell: Cell) -> tuple[list[Points], str]:
    """Return the points of each run that has a cell's name in the store of its tracker, and its state."""
    return {"tensorboard": _tensorboard, "trackio": _trackio, "mlflow": _mlflow}[cell.config.tracking.name](cell)


def _tensorboard(cell: Cell) -> tuple[list[Points], str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(cell.folder / "tensorboard")).Reload()
    return [{n: [(e.step, e.value) for e in found.Scalars(n)] for n in found.Tags()["scalars"]}], "none"


def _trackio(cell: Cell) -> tuple[list[Points], str]:
    from trackio.sqlite_storage import SQLiteStorage

    project = cell.config.tracking.project
    ids = [run["id"] for run in SQLiteStorage.get_run_records(project) if run["name"] == cell.run_id]
    alerts = [alert for alert in SQLiteStorage.get_alerts(project) if alert["run"] == cell.run_id]
    found: list[Points] = []
    for run in ids:
        found.append({})
        for entry in SQLiteStorage.get_logs(project, cell.run_id, run_id=run):
            for name, value in entry.items():
                if name not in ("step", "timestamp", "log_id"):
                    found[-1].setdefault(name, []).append((entry["step"], value))
    return found, "failed" if alerts else "none"


def _mlflow(cell: Cell) -> tuple[list[Points], str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{cell.config.results}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name(cell.config.tracking.project)
    runs = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == cell.run_id]
    found = [
        {name: [(m.step, m.value) for m in client.get_metric_history(r.info.run_id, name)] for name in r.data.metrics}
        for r in runs
    ]
    assert all(r.data.params["adapter.r"] == str(cell.config.adapter.r) for r in runs)
    return found, runs[0].info.status


def test_a_resumed_run_is_one_tracked_run_with_the_numbers_of_the_record(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = finish(tmp_path / "plain", "transform=ctcm")[1]
    cell = cell_in(tmp_path / "tracked", "transform=ctcm", f"tracking={package}")
    stop_at(monkeypatch, 6, OSError("broken"))  # the last checkpoint is that of step 4
    with pytest.raises(UserError):
        execute(cell)
    state = tracked(cell)[1]
    assert state == {"mlflow": "FAILED", "trackio": "failed", "tensorboard": "none"}[package]
    monkeypatch.undo()
    execute(cell)
    assert_same_outcome(cell.folder, plain)
    (found,), state = tracked(cell)
    assert state == {"mlflow": "FINISHED", "trackio": "failed", "tensorboard": "none"}[package]
    for name, points in expected(cell.folder).items():
        logged = found[name] if package == "tensorboard" else sorted(set(found[name]))  # the others keep both attempts
        assert [step for step, _ in logged] == [step for step, _ in points], name
        assert [value for _, value in logged] == pytest.approx([value for _, value in points], rel=1e-6), name
    ((step, value),) = found["last/validation/matthews"]
    assert (step, value) == (8, pytest.approx(record_of(cell).metric("matthews", "validation"), rel=1e-6, abs=1e-6))


def test_each_run_of_a_cohort_has_its_own(package: str, tmp_path: Path) -> None:
    cells = [cell_in(tmp_path, f"seed={seed}", f"tracking={package}", "train.epochs=1") for seed in range(2)]
    execute_cells(cells)
    assert record_of(cells[0]).provenance["cohort"]["runs"] == 2
    for cell in cells:
        (found,), _ = tracked(cell)
        losses = [value for _, value in found["train_loss"]]
        assert losses == pytest.approx([value for _, value in expected(cell.folder)["train_loss"]], rel=1e-6)


class Calls:
    """A stand-in that notes each call of it and of what it returns."""

    def __init__(self, name: str = "", noted: list[tuple[str, tuple[Any, ...], dict[str, Any]]] | None = None) -> None:
        self.name, self.noted = name, [] if noted is None else noted

    def __getattr__(self, name: str) -> "Calls":
        return Calls(f"{self.name}.{name}".lstrip("."), self.noted)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.noted.append((self.name, args, kwargs))
        return [] if self.name.endswith("search_runs") else Calls(self.name, self.noted)

    def named(self, end: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, kwargs) for name, args, kwargs in self.noted if name.endswith(end)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stand-ins of all packages."""
    made = Calls()
    names = ("trackio", "mlflow", "mlflow.entities", "mlflow.exceptions", "torch.utils.tensorboard")
    for name in names:
        module = ModuleType(name)
        attributes = {"init": made.init, "MlflowClient": made.MlflowClient, "SummaryWriter": made.SummaryWriter}
        attributes |= {"Metric": lambda *values: values, "Param": lambda *values: values, "MlflowException": OSError}
        for key, value in attributes.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
    return made


def track(tmp_path: Path, *more: str) -> Cell:
    """Track some numbers of a cell that is not trained."""
    cell = cell_in(tmp_path, "transform=ctcm", *more)
    tracker = make_tracker(cell, cell.folder)
    tracker.log({"step": 5, "train_loss": 0.5, "epoch": 2}, 5)
    tracker.log({"validation/matthews": 0.25}, 8)
    tracker.finish(False)
    return cell


def test_calls_of_tensorboard(calls: Calls, tmp_path: Path) -> None:
    cell = track(tmp_path, "tracking=tensorboard")
    assert calls.named("SummaryWriter") == [((str(cell.folder / "tensorboard"),), {"purge_step": 5})]
    assert [args for args, _ in calls.named("add_scalar")] == [
        ("train_loss", 0.5, 5),
        ("epoch", 2.0, 5),
        ("validation/matthews", 0.25, 8),
    ]
    assert len(calls.named("close")) == 1


def test_calls_of_trackio(calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/space")
    cell = track(tmp_path, "tracking=trackio", "tracking.project=mine")
    ((_, given),) = calls.named("init")
    wanted = {"project": "mine", "name": cell.run_id, "config": cell.identity, "resume": "allow", "auto_log_cpu": False}
    assert wanted.items() <= given.items()
    logged = [(args[0], kwargs["step"]) for args, kwargs in calls.named("init.log")]
    assert logged == [({"train_loss": 0.5, "epoch": 2.0}, 5), ({"validation/matthews": 0.25}, 8)]
    assert len(calls.named("alert")) == len(calls.named("finish")) == 1
    assert "TRACKIO_SPACE_ID" not in os.environ, "offline means offline"


def test_calls_of_mlflow(calls: Calls, tmp_path: Path) -> None:
    cell = track(tmp_path, "tracking=mlflow")
    assert calls.named("MlflowClient") == [((), {"tracking_uri": f"sqlite:///{tmp_path / 'mlflow/mlflow.db'}"})]
    ((_, made),) = calls.named("create_run")
    assert (made["run_name"], made["tags"]["run_id"]) == (cell.run_id, cell.run_id)
    batches = calls.named("log_batch")
    parameters = dict(pair for _, kwargs in batches for pair in kwargs.get("params", []))
    assert (parameters["adapter.structure"], parameters["train.epochs"]) == ("ctcm", "2")
    assert max(len(kwargs.get("params", [])) for _, kwargs in batches) <= 100
    metrics = [(name, value, step) for args, _ in batches if len(args) > 1 for name, value, _, step in args[1]]
    assert metrics == [("train_loss", 0.5, 5), ("epoch", 2.0, 5), ("validation/matthews", 0.25, 8)]
    assert [args[1:] for args, _ in calls.named("set_terminated")] == [("FAILED",)]


@pytest.mark.parametrize("name", PACKAGES)
def test_no_path_of_the_machine_is_logged(calls: Calls, tmp_path: Path, name: str) -> None:
    track(tmp_path, f"tracking={name}")
    store = ("SummaryWriter", "MlflowClient", "create_experiment")  # the places of the stores themselves
    values = [call for call in calls.noted if not call[0].endswith(store)]
    assert values
    assert str(tmp_path) not in repr(values)


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_package_that_is_absent_is_named_with_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (*TRACKERS, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    cell = cell_in(tmp_path, f"tracking={name}")
    with pytest.raises(UserError) as error:
        execute(cell)
    assert f"tracking={name} needs the extra {name} " in one_line(error)
    assert f"'.[{name}]'" in one_line(error)
    assert "Traceback" not in str(record_of(cell).error)


@pytest.mark.parametrize(
    ("name", "part"),
    [("tensorboard", "has no server"), ("trackio", "TRACKIO_SPACE_ID"), ("mlflow", "MLFLOW_TRACKING_URI")],
)
def test_online_needs_a_server(calls: Calls, name: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=part) as error:
        track(tmp_path, f"tracking={name}", "tracking.mode=online")
    assert "tracking.mode=online" in one_line(error)
    assert calls.noted == []


def test_a_tracker_that_cannot_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cell: Cell, folder: Path) -> NullTracker:
        raise RuntimeError("no key\nconfigured")

    monkeypatch.setitem(TRACKERS, "wandb", refuse)
    with pytest.raises(UserError) as error:
        execute(cell_in(tmp_path, "tracking=wandb"))
    assert "tracking=wandb cannot start (no key; configured): " in one_line(error)


def test_a_tracker_that_breaks_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(NullTracker):
        def log(self, values: dict[str, Any], step: int) -> None:
            raise OSError("database is locked")

    monkeypatch.setitem(TRACKERS, "mlflow", lambda cell, folder: Broken())
    caplog.set_level(logging.WARNING)
    folder = finish(tmp_path / "tracked", "tracking=mlflow")[1]
    assert [r.message for r in caplog.records if "tracking=mlflow has stopped" in r.message] == [
        "tracking=mlflow has stopped, the run goes on: database is locked"
    ]
    plain = finish(tmp_path / "plain")[1]
    assert tensors(folder).keys() == tensors(plain).keys()
    assert_same_outcome(folder, plain)


def test_a_finished_run_tells_that_its_tracker_was_not_started(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", lambda cell, folder: NullTracker())
    caplog.set_level(logging.INFO)
    folder = finish(tmp_path)[1]

    def skipped(*more: str) -> str:
        caplog.clear()
        finish(tmp_path, *more)
        (line,) = [r.message for r in caplog.records if "is finished already" in r.message]
        return line

    assert skipped().endswith("is finished already: skipped")
    assert skipped("tracking=wandb").endswith(
        "is finished already: skipped; tracking=wandb gets nothing of 1 finished run, trained without it: metrics.jsonl in "
        f"{folder} has the same values; to track it, delete this folder and train again"
    )
    shutil.rmtree(folder)
    finish(tmp_path, "tracking=wandb")
    assert skipped("tracking=wandb").endswith("is finished already: skipped"), "it was tracked"


def test_finished_runs_of_a_grid_are_counted_in_one_line(tmp_path: Path) -> None:
    cells = [cell_in(tmp_path, f"seed={seed}", "tracking=mlflow") for seed in (0, 1, 2)]
    assert untracked(cells) == []
    for cell in cells[:2]:
        other = cell_in(tmp_path, f"seed={cell.config.seed}", "tracking=tensorboard")
        make_record(other, {("matthews", "validation"): (0.5, 0.5)}).save(cell.folder)
    (line,) = untracked(cells)
    assert "tracking=mlflow gets nothing of 2 finished runs, " in line
    assert str(cells[0].folder) in line
