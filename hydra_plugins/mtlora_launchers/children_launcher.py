"""The launcher for one machine: several child processes train the runs, alone or in cohorts.

`hydra/launcher=local` and `hydra/launcher=cohort` are its two configurations.
"""

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.base.interrupt import handle_signals
from mtlora.config.checks import to_run_config
from mtlora.plan.cell import Cell, cell_of
from mtlora.train.command import objective, report
from mtlora.train.outcome import Outcome, Status
from mtlora.train.sweep import train_cells


class ChildrenLauncher(Launcher):
    """Composes all jobs, then trains them; a job that cannot be composed does not affect the others."""

    def __init__(self, n_jobs: int = 1, max_runs: int = 1) -> None:
        """Take the number of children at a time, and the greatest number of runs that a child trains together."""
        self.n_jobs, self.max_runs = n_jobs, max_runs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the context and the configuration; the task function, which trains one job, is not needed."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train every job; return the results in the order of the jobs."""
        cli.configure_logging()
        handle_signals()
        returns = [JobReturn(overrides=list(overrides), status=JobStatus.FAILED) for overrides in job_overrides]
        by_sha: dict[str, list[JobReturn]] = {}
        cells: dict[str, Cell] = {}
        for job in returns:
            try:
                cell = self._cell(job.overrides or ())
                by_sha.setdefault(cell.sha, []).append(job)
                cells[cell.sha] = cell
            except CompactHydraException as error:
                job.return_value = error

        def note(cell: Cell, outcome: Outcome) -> None:
            failed = outcome.status == Status.FAILED
            for job in by_sha[cell.sha]:
                job.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
                job.return_value = UserError(outcome.reason) if failed else objective(cell, outcome.record)
            if not failed:
                report(cell, outcome.record)

        train_cells(list(cells.values()), self.n_jobs, self.max_runs, note)
        return returns

    def _cell(self, overrides: Sequence[str]) -> Cell:
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        task = list(composed.hydra.overrides.task)
        with open_dict(composed):
            del composed["hydra"]
        return cell_of(to_run_config(composed), task)
