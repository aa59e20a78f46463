"""The training of many cells on this machine, in several child processes at a time.

The launchers `cohort` and `local` call `train_cells`. `mtlora.reproduce` starts this module as a separate process and passes the
pickled cells on the standard input: `python -m mtlora.train.sweep JOBS MOST [the command's arguments]`.
"""

import logging
import pickle
import sys
from collections.abc import Callable, Sequence

from mtlora.base import cli
from mtlora.base.cpu import threads_allowed
from mtlora.base.interrupt import handle_signals
from mtlora.plan.cell import Cell
from mtlora.train.cohort.grouping import cohorts
from mtlora.train.command import report
from mtlora.train.outcome import Outcome, Status
from mtlora.train.worker import train_in_children

log = logging.getLogger("mtlora")


def train_cells(cells: Sequence[Cell], jobs: int, most: int, on_outcome: Callable[[Cell, Outcome], None]) -> None:
    """Train cells.

    Args:
        cells: the cells, each once.
        jobs: the number of children at a time, which share the cores.
        most: the greatest number of runs that a child trains together.
        on_outcome: called once for each cell.
    """
    threads = max(1, threads_allowed() // jobs) if jobs > 1 else None
    train_in_children(cohorts(cells, most, jobs), jobs, threads, on_outcome)


def main() -> None:
    """Train the cells from the standard input; exit code 1 if a run failed."""
    # The remaining arguments are those of the user's command: the records keep them.
    jobs, most = (int(sys.argv.pop(1)) for _ in range(2))
    handle_signals()
    cli.configure_logging()
    failed = False

    def note(cell: Cell, outcome: Outcome) -> None:
        nonlocal failed
        if outcome.status == Status.FAILED:
            failed = True
            log.error("not done: %s", outcome.reason)
        else:
            report(cell, outcome.record)

    train_cells(pickle.load(sys.stdin.buffer), jobs, most, note)
    sys.exit(int(failed))


if __name__ == "__main__":
    cli.run(main)
