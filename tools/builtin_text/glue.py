"""Our own English text for the eight GLUE tasks, so that everything runs without a network.

Columns, their order and the labels are those of ``nyu-mll/glue`` on the hub. The rows are generated and are the same on
every machine. A small pretrained encoder can learn them, but not to 100%, because a small share of the labels is wrong.
Scores measured on them show whether a method trains, but not its rank on the real tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mtlora.base.errors import UserError

from .cola import draw_cola
from .mrpc import draw_mrpc
from .nli import draw_mnli, draw_rte
from .qnli import draw_qnli
from .qqp import draw_qqp
from .sst2 import draw_sst2
from .stsb import draw_stsb

Draw = Callable[[Random, str, int], tuple[str, ...]]


@dataclass(frozen=True)
class _Task:
    """A task: its text columns, the share of each class, and the function that writes a row of a class."""

    columns: tuple[str, ...]
    draw: Draw
    shares: tuple[float, ...]
    train_rows: int = 560
    validation_rows: int = 200
    noise: float = 0.04  # share of rows that get the label of another row


_PAIR = ("sentence1", "sentence2")
_TASKS = {
    "cola": _Task(("sentence",), draw_cola, (0.4, 0.6)),
    "sst2": _Task(("sentence",), draw_sst2, (0.5, 0.5), noise=0.12),
    "mrpc": _Task(_PAIR, draw_mrpc, (0.45, 0.55)),
    "stsb": _Task(_PAIR, draw_stsb, (0.3, 0.1, 0.1, 0.1, 0.1, 0.3)),
    "qqp": _Task(("question1", "question2"), draw_qqp, (0.55, 0.45)),
    "mnli": _Task(("premise", "hypothesis"), draw_mnli, (1 / 3,) * 3),
    "qnli": _Task(("question", "sentence"), draw_qnli, (0.5, 0.5)),
    "rte": _Task(_PAIR, draw_rte, (0.5, 0.5)),
}

SPLITS: dict[str, tuple[str, ...]] = {
    task: ("train", "validation_matched", "validation_mismatched") if task == "mnli" else ("train", "validation")
    for task in _TASKS
}


def generate(task: str, split: str) -> list[dict[str, str | int | float]]:
    """All rows of a split, with the hub's columns: the texts, ``label`` (a class index; 0.0 to 5.0 for stsb) and ``idx``.

    No text of a validation split occurs in the training split. Raises ``UserError`` for an unknown task or split.
    """
    if task not in _TASKS:
        raise UserError(f"source 'builtin' has no task {task!r}; use one of: {', '.join(_TASKS)}")
    if split not in SPLITS[task]:
        raise UserError(
            f"task {task!r} of source 'builtin' has no split {split!r}; use one of: {', '.join(SPLITS[task])}"
        )
    rng = Random(f"mtlora builtin {task} {split}")
    spec = _TASKS[task]
    classes = _classes(rng, spec.shares, spec.train_rows if split == "train" else spec.validation_rows)
    seen: set[tuple[str, ...]] = set()
    rows: list[dict[str, str | int | float]] = []
    for label in classes:
        texts = spec.draw(rng, split, label)
        while texts in seen:
            texts = spec.draw(rng, split, label)
        seen.add(texts)
        given = rng.choice(classes) if rng.random() < spec.noise else label
        target = _score(rng, given) if task == "stsb" else given
        rows.append({**dict(zip(spec.columns, texts, strict=True)), "label": target, "idx": len(rows)})
    return rows


def _classes(rng: Random, shares: tuple[float, ...], count: int) -> list[int]:
    """Class indices in random order, each class as often as its share says."""
    starts = [round(sum(shares[:k]) * count) for k in range(len(shares) + 1)]
    classes = [k for k in range(len(shares)) for _ in range(starts[k], starts[k + 1])]
    rng.shuffle(classes)
    return classes


def _score(rng: Random, level: int) -> float:
    """A similarity score near the level, in steps of 0.2 from 0 to 5 like a mean over annotators."""
    return min(max(round(level + rng.randint(-2, 2) / 5, 1), 0.0), 5.0)
