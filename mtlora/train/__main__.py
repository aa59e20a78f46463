"""Train one run, or sweep many: `python -m mtlora.train task=rte transform=shim rank=r8 seed=0`, with `-m` for several values."""

from mtlora.base import cli
from mtlora.train.command import main

if __name__ == "__main__":
    cli.run(main, hydra_main=True)
