"""Train one run, or sweep many: `python -m mtlora.train task=rte transform=shim rank=r8 seed=0`, `-m` with comma lists.

A run whose record says success is skipped, so the same command can be given again at any time.
"""

import logging
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mtlora import cli
from mtlora.cells import cell_of
from mtlora.config import CONF, to_run_config


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Run one job of Hydra; in a sweep each job comes here by itself."""
    cell = cell_of(to_run_config(composed), HydraConfig.get().overrides.task)
    from mtlora.run import execute  # imports torch and transformers: seconds that `--help` need not pay

    record = execute(cell)
    last = {f"{m['split']}/{m['name']}": round(m["value"], 4) for m in record.metrics if m["selection"] == "last"}
    logging.getLogger("mtlora").info("%s: %s in %s", record.run_id, last, cell.folder)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mtlora").setLevel(logging.INFO)
    cli.run(main)
