"""A Hydra sweeper for a given list of jobs, where the usual product of values would contain finished ones.

`hydra/sweeper=cells hydra.sweeper.file=FILE` reads a JSON list of override lists and hands it to the launcher in one batch.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig


@dataclass
class CellsSweeperConfig:
    """The sweeper's only setting."""

    _target_: str = "hydra_plugins.mtlora_launchers.cells_sweeper.CellsSweeper"
    file: str = MISSING  # JSON: one list of overrides a job


ConfigStore.instance().store(group="hydra/sweeper", name="cells", node=CellsSweeperConfig, provider="mtlora")


class CellsSweeper(Sweeper):
    """Launch the jobs of a file; overrides on the command line are added to each of them."""

    def __init__(self, file: str):
        self.file = Path(file)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher that the configuration names."""
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run every job, then raise the first failure if there was one (as Hydra's own sweeper does)."""
        jobs = [[*overrides, *arguments] for overrides in json.loads(self.file.read_text(encoding="utf-8"))]
        assert self.launcher is not None  # set by setup, which Hydra calls first
        returns = self.launcher.launch(jobs, initial_job_idx=0)
        for job in returns:
            _ = job.return_value
        return [returns]
