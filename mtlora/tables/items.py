"""A paired test over test items: could the choice of test items explain a difference in BLEU between two runs?

It does not test over seeds; the sign-flip test of `statistics.py` does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtlora.base.errors import UserError
from mtlora.config.schema import TaskConfig
from mtlora.plan.grid import Plan
from mtlora.records.predictions import Context, read_predictions
from mtlora.score.compute import require_text_packages
from mtlora.score.generated import in_part
from mtlora.score.text import bleu_metric, reference_streams, treat
from mtlora.tables.comparison import Comparison
from mtlora.tables.evidence import Evidence

TRIALS = 2000
COLUMNS = ["row", "method", "seed", "split", "items", "difference", "p", "run_ids"]


def compare_items(plan: Plan, comparisons: list[Comparison], evidence: Evidence) -> tuple[pd.DataFrame, list[str]]:
    """Compare BLEU within each seed by paired approximate randomisation (Riezler and Maxwell 2005).

    The paired bootstrap of `sacrebleu.significance` compares absolute values of differences, and between two equal systems
    its p is at most 0.05 far more often than in 5% of cases (`tools/benchmarks/calibration.py` measures both).

    Args:
        plan: the plan of an experiment; only data-to-text experiments give rows.
        comparisons: those whose pairs of runs are compared; the metric must be BLEU.
        evidence: where the runs' `predictions.jsonl` are.

    Returns:
        One row per method and seed (p is two-sided), and a line for each comparison that could not be made.
    """
    tasks = {cell.config.task.name: cell.config.task for cell in plan.cells}
    by_run = {record.run_id: evidence.folders.get(sha) for sha, record in evidence.records.items()}
    rows: list[dict[str, Any]] = []
    problems = []
    for c in comparisons:
        if c.metric != "bleu":
            continue
        for pair in c.pairs:
            try:
                require_text_packages()
                ours, theirs = (_texts(by_run[run], tasks[c.task], c.split) for run in pair.runs)
                if [context.facts for context, _ in ours] != [context.facts for context, _ in theirs]:
                    raise UserError("the two runs decoded other contexts")
                p = _compare(ours, theirs, tasks[c.task].scoring)
            except (UserError, RecursionError) as error:
                problems.append(f"{pair.runs[0]} and {pair.runs[1]} are not compared item by item: {error}")
                continue
            keys = {"row": c.row, "method": c.row.method, "seed": pair.seed, "split": c.split, "items": len(ours)}
            rows.append(keys | {"difference": pair.difference, "p": p, "run_ids": " ".join(pair.runs)})
    return pd.DataFrame(rows, columns=COLUMNS), problems


def _texts(folder: Path | None, task: TaskConfig, split: str) -> list[tuple[Context, str]]:
    path = folder / "predictions.jsonl" if folder else None
    if path is None or not path.exists():
        raise UserError("the decoded texts (predictions.jsonl) are not beside the records")
    return [pair for pair in zip(*read_predictions(path), strict=True) if in_part(task, pair[0], split)]


def _compare(ours: list[tuple[Context, str]], theirs: list[tuple[Context, str]], scoring: str) -> float:
    clean = treat(scoring)
    references = [[text for text in map(clean, context.references) if text] for context, _ in ours]
    if not all(references):
        raise UserError("predictions.jsonl has an item without a reference")
    return randomisation_p([clean(text) for _, text in theirs], [clean(text) for _, text in ours], references)


def randomisation_p(base: list[str], other: list[str], references: Sequence[Sequence[str]]) -> float:
    """Return the two-sided p of a difference in BLEU between two systems on n items, by swapping their texts at random.

    The observed texts count as one trial, and trials that are equally extreme count too (Phipson and Smyth 2010).
    `sacrebleu.significance` counts only more extreme ones: between two systems that differ in a few items, its p can be 0.0005
    where it should be 1.
    """
    metric, streams = bleu_metric(), reference_streams(references)
    a, b = (np.array(metric._extract_corpus_statistics(texts, streams)) for texts in (base, other))  # (n, counts)
    swapped = np.random.default_rng(12345).integers(2, size=(TRIALS, len(a)), dtype=bool)  # as sacrebleu
    changes = swapped @ (b - a)  # (trials, counts)

    def bleu(counts: np.ndarray) -> float:
        return float(metric._compute_score_from_stats(counts.tolist()).score)

    seen = abs(bleu(a.sum(0)) - bleu(b.sum(0)))
    trials = [abs(bleu(a.sum(0) + change) - bleu(b.sum(0) - change)) for change in changes]
    return (1 + sum(trial >= seen - 1e-9 for trial in trials)) / (1 + TRIALS)
