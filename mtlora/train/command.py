"""Train one run, or sweep many: `python -m mtlora.train task=rte transform=shim rank=r8 seed=0`, with `-m` for several values.

A finished run is skipped, so the same command can be repeated at any time.
"""

import logging

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from tabulate import tabulate

from mtlora.base import cli
from mtlora.base.interrupt import handle_signals, ignore_signals
from mtlora.base.paths import CONF
from mtlora.base.processes import is_first
from mtlora.base.progress import duration
from mtlora.config.checks import to_run_config
from mtlora.plan.cell import Cell, cell_of
from mtlora.records.record import RunRecord
from mtlora.train.worker import train_in_child

log = logging.getLogger("mtlora")


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(composed: DictConfig) -> float | None:
    """Train the run of one Hydra job and return its `objective`; a sweep calls this function once for each job."""
    cli.configure_logging()  # needed here, too, because a launcher's process runs only this function
    if is_first():
        handle_signals()
    else:
        ignore_signals()  # the first process saves the checkpoint; this one ends with it
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        cell = cell_of(to_run_config(composed), HydraConfig.get().overrides.task)
        record = train_in_child(cell) if sweeping else _train_here(cell)
    except CompactHydraException as error:
        if not sweeping:
            cli.fail(error)  # not raised, because Hydra would print a line of its own first
        raise  # the sweeper lists it at the end
    if is_first():
        report(cell, record)
        if record is not None and not sweeping:
            print(table(cell, record))
    return objective(cell, record)


def objective(cell: Cell, record: RunRecord | None) -> float | None:
    """Return the task's first metric in the last epoch, for sweepers that optimise; None if another process trains the run."""
    split, names = next(iter(cell.config.task.metrics.items()))
    return None if record is None else record.metric(names[0], split)


def report(cell: Cell, record: RunRecord | None) -> None:
    """Log a run's metrics of the last epoch; `record` is None if another process is training the run."""
    if record is None:
        log.info("%s is skipped: another process is training it", cell.run_id)
        return
    found = record.shown_metrics().items()
    last = (f"{split} {name} {row['last epoch']}" for (split, name), row in found if "last epoch" in row)
    log.info("%s: %s in %s", record.run_id, ", ".join(last), cell.folder)


def table(cell: Cell, record: RunRecord) -> str:
    """Return a finished run's metrics as a table, with its parameters, time and folder below."""
    figures = record.shown_metrics()
    columns = [c for c in ("last epoch", "best epoch", "majority answer") if any(c in row for row in figures.values())]
    rows = [[*key, *(row.get(column, "–") for column in columns)] for key, row in figures.items()]
    sides = ["left", "left", *["right"] * len(columns)]
    grid = tabulate(rows, ["split", "metric", *columns], tablefmt="simple", colalign=sides, disable_numparse=True)
    seconds = record.cost.get("seconds", 0.0) + record.cost.get("decode_seconds", 0.0)
    below = f"{record.parameters.get('adapter', 0):,} adapter parameters, {duration(seconds)}; record, predictions and adapter in"
    return f"\n{grid}\n\n{below} {cell.folder}"


def _train_here(cell: Cell) -> RunRecord:
    # This imports torch and transformers, which would slow `--help` down by seconds.
    from mtlora.train.execution import execute

    return execute([cell])[0].result()
