"""The scores of generated texts, by part of the test split."""

from collections.abc import Sequence

from mtlora.base.errors import UserError
from mtlora.config.schema import TaskConfig
from mtlora.records.predictions import Context
from mtlora.score.compute import compute_texts


def score(
    task: TaskConfig, contexts: Sequence[Context], texts: Sequence[str], experiment_id: str, official_ter: bool = False
) -> dict[str, dict[str, float]]:
    """Return {split: {metric: value}} for the parts of the test split that `task.metrics` names; empty parts are left out.

    Args:
        contexts: the contexts with their references.
        texts: one for each context, in the same order.
        experiment_id: one per run, so that runs in parallel never share state.
        official_ter: count the blank last line that the official TER script reads; see `compute_texts`.
    """
    if len(contexts) != len(texts):
        raise UserError(f"{len(texts)} texts for {len(contexts)} contexts: one text for each context is needed")
    scores = {}
    for split, names in task.metrics.items():
        chosen = [pair for pair in zip(texts, contexts, strict=True) if in_part(task, pair[1], split)]
        if chosen:
            hypotheses, references = [text for text, _ in chosen], [list(context.references) for _, context in chosen]
            scores[split] = compute_texts(names, task.scoring, hypotheses, references, experiment_id, official_ter)
    return scores


def in_part(task: TaskConfig, context: Context, split: str) -> bool:
    """Return whether a context belongs to `test` or `test_A` (all), `test_S` (a category of the training data) or `test_U`."""
    seen = context.category in task.seen
    return {"test": True, "test_A": True, "test_S": seen, "test_U": not seen}[split]
