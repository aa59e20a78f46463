"""The sweeper of this package: it launches all jobs of a sweep in one batch, and finally lists the failed ones with the reasons.

Hydra's own sweeper reports only the first failure. `hydra.sweeper.file=FILE` reads the jobs from a JSON list of override lists,
because a product of values on the command line would contain finished cells, too.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException

from mtlora.base.interrupt import handle_signals

log = logging.getLogger("mtlora")


@dataclass
class CellsSweeperConfig:
    """The sweeper's only setting."""

    _target_: str = "hydra_plugins.mtlora_launchers.cells_sweeper.CellsSweeper"
    file: str | None = None  # JSON: a list of overrides for each job


_store = ConfigStore.instance()
_store.store(group="hydra/sweeper", name="cells", node=CellsSweeperConfig, provider="mtlora")
# conf/hydra/launcher has files of the same names; without this line Hydra would warn about the duplicates in every process.
for _name in ("joblib.yaml", "ray.yaml"):
    _store.repo.get("hydra", {}).get("launcher", {}).pop(_name, None)


class CellsSweeper(BasicSweeper):
    """Launch the jobs of a file, or the product of the values on the command line."""

    def __init__(self, file: str | None = None):
        super().__init__(max_batch_size=None)
        self.file = file

    def sweep(self, arguments: list[str]) -> Any:
        """Run every job; then list the failures and raise if there was one.

        Raises:
            CompactHydraException: a job or the launcher failed; or the overrides on the command line do not compose (checked
                before any job starts).
        """
        handle_signals()  # so that the launcher's processes end with this one
        assert self.launcher is not None  # set by setup, which Hydra calls first
        assert self.hydra_context is not None
        if self.file is not None:
            # The values of a job come last, so they win: `results=out/${seed}` is a folder for each seed.
            jobs = [[*arguments, *overrides] for overrides in json.loads(Path(self.file).read_text(encoding="utf-8"))]
        else:
            parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
            (jobs,) = self.split_arguments(parser.parse_overrides(arguments), None)
            self.validate_batch_is_legal(jobs)
        try:
            returns = self.launcher.launch(jobs, initial_job_idx=0)
        except CompactHydraException:
            raise
        except Exception as error:  # a process of joblib, Ray or Slurm died; its records remain
            reason = " ".join(str(error).split())[:300]
            raise CompactHydraException(
                f"the launcher stopped ({type(error).__name__}: {reason}): the same command trains the missing runs"
            ) from None
        self._report(returns)
        return [returns]

    @staticmethod
    def _report(returns: Sequence[JobReturn]) -> None:
        failed = [job for job in returns if job.status == JobStatus.FAILED]
        if not failed:
            return
        for job in failed:
            log.error("not done: %s: %s", " ".join(job.overrides or ()), " ".join(str(job._return_value).split()))
        raise CompactHydraException(
            f"{len(failed)} of {len(returns)} runs failed (listed above): the same command tries only those again"
        )
