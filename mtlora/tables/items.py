"""The uncertainty from the choice of test items: a second interval, and a test of the trained models.

The intervals of `statistics.py` are about other seeds on the same test items. These are about other items, too. Both need the
answers of every run, its `predictions.jsonl`, and a metric that is a function of sums over items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtlora.base.errors import UserError
from mtlora.base.streams import numpy_stream
from mtlora.config.schema import TaskConfig
from mtlora.plan.experiment import Column, Entry
from mtlora.plan.grid import Plan
from mtlora.records.predictions import numbers_only, read_predictions
from mtlora.records.record import PREDICTIONS, detail
from mtlora.score.compute import require_text_packages
from mtlora.score.generated import in_part
from mtlora.score.sums import SCORES, Score, bleu_counts, item_counts
from mtlora.score.text import treat
from mtlora.tables.aggregate import scale_of
from mtlora.tables.comparison import Comparison, by_task
from mtlora.tables.evidence import Evidence
from mtlora.tables.statistics import Difference, Verdict, paired_difference

DRAWS = 2000
CHUNK = 100  # draws at a time, because the weights of 40,000 items take 0.3 MB a draw


@dataclass(frozen=True)
class Counted:
    """The answers of both methods on one task: what each item adds to the sums of a metric, and the metric."""

    ours: np.ndarray  # (seeds, items, k)
    theirs: np.ndarray
    score: Score

    def differences(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Return the differences in score for sums of the shape (draws, seeds, k): (draws, seeds)."""
        items = self.ours.shape[1]
        return self.score(ours, items) - self.score(theirs, items)


@dataclass(frozen=True)
class ItemResult:
    """A comparison over test items in the headline score."""

    comparison: Comparison
    difference: float
    interval: tuple[float, float] | None
    p: float


def compare_items(
    plan: Plan, comparisons: Sequence[Comparison], evidence: Evidence
) -> tuple[list[ItemResult], list[str]]:
    """Compare over test items; also return a line for each comparison that could not be made."""
    results, problems = [], []
    folders = {record.run_id: evidence.folders.get(sha) for sha, record in evidence.records.items()}
    for c in comparisons:
        has_answers = any(detail(folders.get(run), PREDICTIONS) for run in c.runs)
        if c.difference is None or c.verdict is Verdict.FAILS or not has_answers:  # a run that diverged has no answers
            continue
        try:
            tasks = [_counted(plan, c, column, folders) for column in plan.columns if _counts(c, column)]
        except (UserError, RecursionError) as error:
            problems.append(f"{c.row.method} and {c.base.method} are not compared over test items: {error}")
            continue
        seeds = paired_difference(list(by_task(c.pairs).values()), c.groups, list(c.floors.values()))
        results.append(ItemResult(c, seeds.mean, interval(seeds, tasks), exchange_p(tasks)))
    return results, problems


def _counts(c: Comparison, column: Column) -> bool:
    return c.task == "average" or (column.task, column.split, column.metric) == (c.task, c.split, c.metric)


def interval(seeds: Difference, tasks: Sequence[Counted]) -> tuple[float, float] | None:
    """Return a 95% interval for other seeds and other items: that of the seeds, widened by the variance over items.

    The latter is that of the mean over the given seeds, in a bootstrap of the items with exponential weights (Rubin 1981), which
    are as good as multinomial ones and much faster to draw. None for a single seed, which tells nothing about others.
    """
    if seeds.error is None:
        return None

    def weighted(random: np.random.Generator, task: Counted) -> list[np.ndarray]:
        items = task.ours.shape[1]
        weights = random.standard_exponential((CHUNK, items))
        weights *= items / weights.sum(1, keepdims=True)
        return [np.einsum("bn,snk->bsk", weights, x, optimize=True) for x in (task.ours, task.theirs)]

    return replace(seeds, error=float(np.hypot(seeds.error, _drawn(tasks, "items", weighted).std(ddof=1)))).interval()


def exchange_p(tasks: Sequence[Counted]) -> float:
    """Return the two-sided p of a difference under random exchanges of the two methods' answers, item by item.

    All seeds of an item are exchanged together, because they share its difficulty. This is approximate randomisation (Riezler and
    Maxwell 2005); the answers as they are count as one draw, and equally extreme draws count (Phipson and Smyth 2010).
    """

    def exchanged(random: np.random.Generator, task: Counted) -> list[np.ndarray]:
        chosen = random.integers(2, size=(CHUNK, task.ours.shape[1])).astype(float)
        change = np.einsum("bn,snk->bsk", chosen, task.theirs - task.ours, optimize=True)
        return [task.ours.sum(1) + change, task.theirs.sum(1) - change]

    as_they_are = (task.differences(task.ours.sum(1)[None], task.theirs.sum(1)[None]) for task in tasks)
    seen = sum(float(differences.mean()) / len(tasks) for differences in as_they_are)
    return float((1 + (np.abs(_drawn(tasks, "exchange", exchanged)) >= abs(seen) - 1e-9).sum()) / (1 + DRAWS))


def _drawn(
    tasks: Sequence[Counted], stream: str, draw: Callable[[np.random.Generator, Counted], list[np.ndarray]]
) -> np.ndarray:
    """Return the mean difference over seeds and tasks in each draw, (DRAWS,); `draw` returns the sums of `CHUNK` draws."""
    random = numpy_stream(0, "", stream)
    found = np.zeros(DRAWS)
    for task in tasks:
        for start in range(0, DRAWS, CHUNK):
            found[start : start + CHUNK] += task.differences(*draw(random, task)).mean(1) / len(tasks)
    return found


def _counted(plan: Plan, c: Comparison, column: Column, folders: Mapping[str, Path | None]) -> Counted:
    config = next(cell.config.task for cell in plan.cells if cell.config.task.name == column.task)
    if column.beside is not None:
        raise UserError(f"the column {column.label} holds two metrics")
    if column.metric not in SCORES:
        raise UserError(f"{column.metric} is not a function of sums over items")
    runs = [pair.runs for pair in c.pairs if pair.task == column.task]
    entry = Entry(column.split, column.metric)
    read = _texts if config.kind == "generation" else _answers
    found = [[read(folders.get(run), config, entry) for run in side] for side in zip(*runs, strict=True)]
    if len({keys for side in found for keys, _ in side}) > 1:
        raise UserError(f"the runs on {column.task} did not all answer the same items")
    ours, theirs = (np.stack([counts for _, counts in side]) for side in found)
    return Counted(ours, theirs, lambda sums, n: scale_of(column) * SCORES[column.metric](sums, n))


def _answers(folder: Path | None, task: TaskConfig, entry: Entry) -> tuple[str, np.ndarray]:
    """Return a key of the items, and what each answer adds to the metric's sums."""
    path = _predictions(folder)
    rows = [row for row in numbers_only(path) if row["split"] == entry.split]
    if not rows:
        raise UserError(f"{path} has no answer on {entry.split}")
    answers, labels = (np.array([float(row[key]) for row in rows]) for key in ("prediction", "label"))
    return str(labels.tolist()), item_counts(entry.metric, answers, labels)


def _texts(folder: Path | None, task: TaskConfig, entry: Entry) -> tuple[str, np.ndarray]:
    require_text_packages()
    clean = treat(task.scoring)
    pairs = [p for p in zip(*read_predictions(_predictions(folder)), strict=True) if in_part(task, p[0], entry.split)]
    references = [[text for text in map(clean, context.references) if text] for context, _ in pairs]
    if not all(references):
        raise UserError("predictions.jsonl has an item without a reference")
    return str([context.facts for context, _ in pairs]), bleu_counts([clean(text) for _, text in pairs], references)


def _predictions(folder: Path | None) -> Path:
    path = detail(folder, PREDICTIONS)
    if path is None:
        raise UserError(f"the answers ({PREDICTIONS}) are not beside each record")
    return path
