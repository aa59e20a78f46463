"""The cohorts of a sweep. The parent process of a sweep calls this, so nothing here imports torch."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TypeVar

from mtlora.plan.cell import Cell

T = TypeVar("T")
# The methods of one seed share batches and dropout masks, so no limit below this number of runs is set for balance.
FEWEST = 5

# The keys that may differ between the runs of a cohort.
OWN = {
    "adapter": (
        "method",
        "label",
        "structure",
        "alpha",
        "step",
        "like",
        "train_t",
        "rate",
        "dropout",
        "use_rslora",
        "init_weights",
    ),
    "train": (
        "epochs",
        "learning_rate",
        "lr_multiplier",
        "parent_lr_multiplier",
        "lr_ratio_t",
        "lr_ratio_b",
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
    """Return a key that is equal for runs that can train together.

    They may differ in the values of `OWN`, the seed, `init_from`, the protocol, the choice of a tuned learning rate and the name
    of the recipe. Other PEFT methods, full fine-tuning and runs on a quantised backbone train alone, each with a backbone of its
    own.
    """
    if cell.config.adapter.peft or cell.config.adapter.full or cell.config.model.quantization:
        return cell.sha
    values = asdict(cell.config)
    for part, names in OWN.items():
        for name in names:
            del values[part][name]
    for name in ("seed", "init_from", "recipe", "protocol", "tuning", "tuned_choice"):
        del values[name]
    return json.dumps(values, sort_keys=True)


def cohorts(cells: Sequence[Cell], most: int, children: int) -> list[list[Cell]]:
    """Group cells into cohorts of at most `most` runs, for a number of children at a time.

    The cells of one key are divided equally among the children, so that these end at about the same time; the limit set for
    this is at least `FEWEST` runs. If there would be fewer cohorts than children, the largest are halved as often as necessary.
    Runs of one seed are neighbours.
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
    """Split runs into the smallest number of parts of at most `most` runs, all of about the same length."""
    count = math.ceil(len(runs) / most)
    bounds = [len(runs) * i // count for i in range(count + 1)]
    return [list(runs[start:end]) for start, end in pairwise(bounds)]


def halves(runs: Sequence[T]) -> list[list[T]]:
    """Split at least two runs into two parts."""
    return parts(runs, math.ceil(len(runs) / 2))
