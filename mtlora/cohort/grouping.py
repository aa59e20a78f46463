"""Which runs can train in lock-step. Nothing heavy is imported: a sweep's parent process calls this."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from mtlora.cells import Cell

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
    """Group cells into cohorts of at most `most` runs, and into at least `children` of them where there are enough cells."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cohort_key(cell), []).append(cell)
    found = [group[i : i + most] for group in groups.values() for i in range(0, len(group), most)]
    while len(found) < min(children, len(cells)):
        largest = max(range(len(found)), key=lambda i: len(found[i]))
        found[largest : largest + 1] = halves(found[largest])
    return found


def halves(cells: list[Cell]) -> list[list[Cell]]:
    """Cut a cohort of at least two runs into two."""
    middle = len(cells) // 2
    return [cells[:middle], cells[middle:]]
