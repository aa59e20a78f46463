"""Which runs can train in lock-step. Nothing heavy is imported: a sweep's parent process calls this."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TypeVar

from mtlora.plan.cell import Cell

T = TypeVar("T")
FEWEST = 5  # runs, the methods of one seed, which share batches and dropout masks: not torn apart for balance


# What may differ between the runs of a cohort: each run has its own parameters, optimizer, schedule, dropout and checkpoint.
OWN = {
    "adapter": ("structure", "r", "alpha", "dropout", "use_rslora", "init_weights"),
    "train": (
        "epochs",
        "learning_rate",
        "weight_decay",
        "decay_t",
        "warmup_ratio",
        "warmup_steps",
        "beta1",
        "beta2",
        "eps",
        "max_grad_norm",
        "mean_bias",
    ),
}


def cohort_key(cell: Cell) -> str:
    """Return what must be equal for runs to be trained together: task, model, targets, data, shape and number of batches."""
    values = asdict(cell.config)
    for part, names in OWN.items():
        for name in names:
            del values[part][name]
    for name in ("seed", "init_from", "recipe"):
        del values[name]
    return json.dumps(values, sort_keys=True)


def cohorts(cells: Sequence[Cell], most: int, children: int) -> list[list[Cell]]:
    """Group cells into cohorts of at most `most` runs, for so many children at a time.

    Every child gets an equal part of each group, so that all end at about the same time, but of at least `FEWEST` runs; and
    there are as many cohorts as children where there are enough cells. Runs of one seed, which have the same batches and
    dropout masks, stay together.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cohort_key(cell), []).append(cell)
    found = []
    for group in groups.values():
        size = min(most, max(FEWEST, math.ceil(len(group) / children)))
        found += parts(sorted(group, key=lambda cell: cell.config.seed), size)
    while len(found) < min(children, len(cells)):
        largest = max(range(len(found)), key=lambda i: len(found[i]))
        found[largest : largest + 1] = halves(found[largest])
    return found


def parts(runs: Sequence[T], most: int) -> list[list[T]]:
    """Cut runs into as few parts of at most `most` as there can be, all of about one length."""
    count = math.ceil(len(runs) / most)
    bounds = [len(runs) * i // count for i in range(count + 1)]
    return [list(runs[start:end]) for start, end in pairwise(bounds)]


def halves(runs: Sequence[T]) -> list[list[T]]:
    """Cut at least two runs into two parts."""
    return parts(runs, math.ceil(len(runs) / 2))
