"""Experiment tracking behind one small interface: wandb, TensorBoard, trackio, MLflow, or nothing.

All receive the same: the numbers of a run, the values of its identity (no path, no secret), its run_id and a few names. A resumed
run goes on in the same tracked run. What a tracker does cannot change a run, and an error after its start does not end one.
"""

import contextvars
import io
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from mtlora.base.errors import UserError
from mtlora.base.extras import needs
from mtlora.base.messages import one_line
from mtlora.plan.cell import Cell
from mtlora.records.record import RECORD, RunRecord, record_status

log = logging.getLogger(__name__)

PARAMETERS_A_CALL = 100  # that MLflow takes
MLFLOW_SERVER = "MLFLOW_TRACKING_URI"
TRACKIO_SERVERS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # either sends the runs to a server


class Tracker(Protocol):
    """Receives the numbers of one run."""

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log values at an optimizer step."""

    def finish(self, success: bool) -> None:
        """Close the run; an unsuccessful one is marked as failed."""


class NullTracker:
    """Tracks nothing."""

    def log(self, values: dict[str, Any], step: int) -> None:
        """Do nothing."""

    def finish(self, success: bool) -> None:
        """Do nothing."""


class WandbTracker:
    """Tracks with Weights & Biases; offline unless `tracking.mode=online`. The run id is stable across resumes."""

    def __init__(self, cell: Cell, folder: Path):
        import wandb

        config = cell.config
        self._run = wandb.init(
            project=config.tracking.project,
            entity=config.tracking.entity,
            mode="online" if config.tracking.mode == "online" else "offline",
            id=cell.run_id,
            name=cell.run_id,
            group=_group(cell),
            job_type=cell.label,
            tags=[config.task.name, config.model.name],
            config=cell.identity,
            dir=str(folder),
            resume="allow",
            reinit="create_new",  # else all runs of a cohort, which are open at once, would log into the first
            # Otherwise wandb records the command, the paths of program and interpreter, and the console.
            settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True, x_disable_meta=True),
        )

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log values at an optimizer step."""
        self._run.log(values, step=step)

    def finish(self, success: bool) -> None:
        """Close the run with exit code 0 or 1."""
        self._run.finish(exit_code=0 if success else 1)


class TensorBoardTracker:
    """Writes TensorBoard's event files into the run's folder."""

    def __init__(self, cell: Cell, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        if cell.config.tracking.mode == "online":
            raise UserError("tracking.mode=online: tensorboard has no server: leave it out")
        self._open: Callable[..., Any] = SummaryWriter
        self._folder, self._identity = str(folder / "tensorboard"), cell.identity
        self._writer: Any = None

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log values at an optimizer step; the first call hides what an earlier attempt has logged from this step on."""
        if self._writer is None:
            # The row of a step may have been logged before the checkpoint from which its evaluation is repeated.
            self._writer = self._open(self._folder, purge_step=step if "train_loss" in values else step + 1)
            self._writer.add_text("config", f"    {json.dumps(self._identity)}", step)
        for name, value in _figures(values).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, success: bool) -> None:
        """Close the file; TensorBoard has no state of a run."""
        if self._writer is not None:
            self._writer.close()


class TrackioTracker:
    """Tracks with trackio: in RESULTS/trackio or TRACKIO_DIR, or with `tracking.mode=online` on a server."""

    def __init__(self, cell: Cell, folder: Path):
        config = cell.config
        online = config.tracking.mode == "online"
        if online and not any(map(os.environ.get, TRACKIO_SERVERS)):
            raise UserError(f"tracking.mode=online of trackio needs a server: set {' or '.join(TRACKIO_SERVERS)}")
        os.environ.setdefault("TRACKIO_DIR", str(Path(config.results).resolve() / "trackio"))
        for name in () if online else TRACKIO_SERVERS:
            os.environ.pop(name, None)  # trackio reads them whatever it is asked for
        with redirect_stdout(io.StringIO()):
            import trackio  # reads TRACKIO_DIR

            # In a context of its own, else `init` closes the run before it, and the runs of a cohort are open at once.
            self._run: Any = contextvars.Context().run(
                trackio.init,
                project=config.tracking.project,
                name=cell.run_id,
                group=_group(cell),
                config=cell.identity,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log values at an optimizer step."""
        self._run.log(_figures(values), step=step)

    def finish(self, success: bool) -> None:
        """Wait until all values are stored; trackio has no state of a run, so a failed one gets an alert."""
        with redirect_stdout(io.StringIO()):
            if not success:
                self._run.alert(title="The run failed")
            self._run.finish()


class MlflowTracker:
    """Tracks with MLflow: in RESULTS/mlflow/mlflow.db, or with `tracking.mode=online` on the server of MLFLOW_TRACKING_URI."""

    def __init__(self, cell: Cell, folder: Path):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would be sent offline, too
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        tracking, local = cell.config.tracking, Path(cell.config.results).resolve() / "mlflow"
        uri, artifacts = os.environ.get(MLFLOW_SERVER), None
        if tracking.mode == "offline":
            local.mkdir(parents=True, exist_ok=True)
            uri, artifacts = f"sqlite:///{local / 'mlflow.db'}", (local / "artifacts").as_uri()
        elif not uri:
            raise UserError(f"tracking.mode=online of mlflow needs a server: set {MLFLOW_SERVER} to its address")
        for name in ("alembic", "mlflow.store"):  # lines about each step of making a database
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client: Any = MlflowClient(tracking_uri=uri)
        self._metric = Metric
        experiment = self._experiment(tracking.project, artifacts)
        self._id = self._run_of(cell, experiment)
        parameters = [Param(name, str(value)) for name, value in _flat(cell.identity).items()]
        for start in range(0, len(parameters), PARAMETERS_A_CALL):
            self._client.log_batch(self._id, params=parameters[start : start + PARAMETERS_A_CALL])

    def _experiment(self, name: str, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        if (known := self._client.get_experiment_by_name(name)) is None:
            try:
                return str(self._client.create_experiment(name, artifacts))
            except MlflowException:  # another process has just made it
                if (known := self._client.get_experiment_by_name(name)) is None:
                    raise
        return str(known.experiment_id)

    def _run_of(self, cell: Cell, experiment: str) -> str:
        """Return the id of the run that an earlier attempt of the cell has made, or of a new one."""
        found = self._client.search_runs([experiment], f"tags.run_id = '{cell.run_id}'", max_results=1)
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        tags = {"run_id": cell.run_id, "group": _group(cell), "method": cell.label}
        return str(self._client.create_run(experiment, run_name=cell.run_id, tags=tags).info.run_id)

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log values at an optimizer step."""
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [self._metric(name, v, now, step) for name, v in _figures(values).items()])

    def finish(self, success: bool) -> None:
        """Close the run as finished or failed."""
        self._client.set_terminated(self._id, "FINISHED" if success else "FAILED")


class SafeTracker:
    """Passes everything on; after the first error it warns and goes silent, because a run must not end for its tracker."""

    def __init__(self, name: str, tracker: Tracker):
        self._name, self._tracker, self._silent = name, tracker, False

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log values at an optimizer step."""
        self._call(lambda: self._tracker.log(values, step))

    def finish(self, success: bool) -> None:
        """Close the run."""
        self._call(lambda: self._tracker.finish(success))

    def _call(self, action: Callable[[], None]) -> None:
        if self._silent:
            return
        try:
            action()
        except Exception as error:
            self._silent = True
            log.warning("tracking=%s has stopped, the run goes on: %s", self._name, _reason(error))


TRACKERS: dict[str, Callable[[Cell, Path], Tracker]] = {
    "wandb": WandbTracker,
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
    "mlflow": MlflowTracker,
}


def make_tracker(cell: Cell, folder: Path) -> Tracker:
    """Return the tracker that the configuration names.

    Raises:
        UserError: its package is not installed, or it cannot start.
    """
    name = cell.config.tracking.name
    if name == "none":
        return NullTracker()
    try:
        return SafeTracker(name, TRACKERS[name](cell, folder))
    except ImportError as error:
        line = needs(f"tracking={name}", f"the extra {name} ({error})", name)
        raise UserError(f"{line}, or set tracking=none") from None
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"tracking={name} cannot start ({_reason(error)}): correct that, or set tracking=none"
        ) from None


def untracked(cells: Sequence[Cell]) -> list[str]:
    """Return one line, or none, about finished runs of which the tracker that is set now gets nothing."""
    left = [
        cell
        for cell in cells
        if (name := cell.config.tracking.name) != "none"
        and record_status(cell.folder) == "success"
        and RunRecord.load(cell.folder / RECORD).config.get("tracking", {}).get("name", "none") != name
    ]
    if not left:
        return []
    one = len(left) == 1
    runs, place = f"{len(left)} finished run{'' if one else 's'}", left[0].folder
    return [
        f"tracking={left[0].config.tracking.name} gets nothing of {runs}, trained without it: metrics.jsonl in {place}"
        f"{'' if one else ' and the others'} has the same values; to track {'it' if one else 'them'}, delete "
        f"{'this folder' if one else 'these folders'} and train again"
    ]


def _reason(error: Exception) -> str:
    return one_line(error)[:300] or type(error).__name__


def _group(cell: Cell) -> str:
    return f"{cell.config.task.suite}-{cell.config.profile}"


def _figures(values: dict[str, Any]) -> dict[str, float]:
    """Return the values without the step, which is the axis."""
    return {name: float(value) for name, value in values.items() if name != "step"}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by their keys with dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
