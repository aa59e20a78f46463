"""Train one run, or sweep many: `python -m mtlora.train task=rte transform=shim rank=r8 seed=0`, `-m` with comma lists.

A run whose record says success is skipped, so the same command can be given again at any time.
"""

import logging
import os
import sys
import warnings

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from mtlora import cli
from mtlora.cells import cell_of
from mtlora.config import CONF
from mtlora.validation import to_run_config

log = logging.getLogger("mtlora")


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Run one job of Hydra; in a sweep each job comes here by itself."""
    configure_logging()
    try:
        cell = cell_of(to_run_config(composed), HydraConfig.get().overrides.task)
        from mtlora.run import execute  # imports torch and transformers: seconds that `--help` need not pay

        record = execute(cell)
    except CompactHydraException as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            cli.fail(error)  # not raised: Hydra would write a line of its own before ours
        log.error("failed: %s", cli.one_line(error))  # Hydra reports only the first failed job of a sweep
        raise
    last = {f"{m['split']}/{m['name']}": round(m["value"], 4) for m in record.metrics if m["selection"] == "last"}
    log.info("%s: %s in %s", record.run_id, last, cell.folder)


def configure_logging() -> None:
    """Send our own messages to stderr, and hide what libraries say to their developers; a worker process needs it too."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*setting fan_in_fan_out to True")  # always so for GPT-2
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


if __name__ == "__main__":
    cli.run(main, hydra_main=True)
