"""Train one run, or sweep many: `python -m mtlora.train task=rte transform=shim rank=r8 seed=0`, `-m` with comma lists.

A run whose record says success is skipped, so the same command can be given again at any time.
"""

import logging

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from mtlora.base import cli
from mtlora.base.interrupt import handle_signals, ignore_signals
from mtlora.base.paths import CONF
from mtlora.base.processes import is_first
from mtlora.config.checks import to_run_config
from mtlora.plan.cell import Cell, cell_of
from mtlora.records.record import RunRecord
from mtlora.train.worker import train_in_child

log = logging.getLogger("mtlora")


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Run one job of Hydra; in a sweep each job comes here by itself."""
    cli.configure_logging()  # again in a launcher's process, where only this function runs
    if is_first():
        handle_signals()
    else:
        ignore_signals()  # it ends with the first process, which keeps the checkpoint
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        cell = cell_of(to_run_config(composed), HydraConfig.get().overrides.task)
        record = train_in_child(cell) if sweeping else _train_here(cell)
    except CompactHydraException as error:
        if not sweeping:
            cli.fail(error)  # not raised: Hydra would write a line of its own before ours
        raise  # listed at the end of the sweep
    if is_first():
        report(cell, record)


def report(cell: Cell, record: RunRecord | None) -> None:
    """Log a run's metrics of the last epoch; None stands for a run that another process is training."""
    if record is None:
        log.info("%s is being trained by another process: left to it", cell.run_id)
        return
    last = {f"{m['split']}/{m['name']}": round(m["value"], 4) for m in record.metrics if m["selection"] == "last"}
    log.info("%s: %s in %s", record.run_id, last, cell.folder)


def _train_here(cell: Cell) -> RunRecord:
    from mtlora.train.execution import execute  # imports torch and transformers: seconds that `--help` need not pay

    return execute([cell])[0].result()
