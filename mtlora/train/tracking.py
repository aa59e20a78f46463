"""Experiment tracking behind one small interface: wandb, or nothing."""

from pathlib import Path
from typing import Any, Protocol

from mtlora.plan.cell import Cell


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
            group=f"{config.task.suite}-{config.profile}",
            job_type=cell.label,
            tags=[config.task.name, config.model.name],
            config=cell.identity,
            dir=str(folder),
            resume="allow",
            reinit="create_new",  # else all runs of a cohort, which are open at once, would log into the first
            settings=wandb.Settings(silent=True),
        )

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log values at an optimizer step."""
        self._run.log(values, step=step)

    def finish(self, success: bool) -> None:
        """Close the run with exit code 0 or 1."""
        self._run.finish(exit_code=0 if success else 1)


def make_tracker(cell: Cell, folder: Path) -> Tracker:
    """Return the tracker that the configuration names."""
    return WandbTracker(cell, folder) if cell.config.tracking.name == "wandb" else NullTracker()
