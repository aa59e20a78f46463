"""The end of a data-to-text run: decode the test contexts with the trained adapter merged, and score the texts."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftModel

from mtlora.adapter.layer import MTLoraLayer
from mtlora.attention import fastest_attention
from mtlora.config import DataConfig, RunConfig, TaskConfig
from mtlora.errors import UserError
from mtlora.generation import check_positions, generate
from mtlora.metrics import compute_texts
from mtlora.processes import gather, share
from mtlora.tasks.batches import sample_rows
from mtlora.tasks.local import numbered_lines, read_text
from mtlora.tasks.pairs import Group, Pair, group_pairs
from mtlora.tasks.prompting import encode_prompts, end_tokens, pad_token
from mtlora.tasks.sources import load_split


def load_groups(task: TaskConfig, data: DataConfig, cache: Path) -> list[Group]:
    """Return the contexts of the test split, in the order of their first occurrence, with their references.

    Raises:
        UserError: the source lacks the split, or a context has no text.
    """
    rows = load_split(task, data, "test", cache)
    return group_pairs((Pair(**row) for row in rows), task.max_references)


def prepare_groups(config: RunConfig, model: PeftModel, tokenizer: Any) -> list[Group]:
    """Return the contexts that a run decodes: those of the test split, or the sample that `decode.limit_contexts` asks for.

    Raises:
        UserError: as `load_groups`, or a context and its text exceed the model's positions.
    """
    groups = load_groups(config.task, config.data, Path(config.results) / "cache")
    rows = sample_rows(len(groups), config.decode.limit_contexts, "contexts", config.task.name)
    chosen = [groups[row] for row in rows]
    prompts = encode_prompts([group.context for group in chosen], tokenizer)
    check_positions(model, [prompt[-config.decode.max_context :] for prompt in prompts], config.decode)
    return chosen


def decode(
    config: RunConfig,
    model: PeftModel,
    tokenizer: Any,
    contexts: Sequence[str],
    on_progress: Callable[[int, int], None],
) -> list[str]:
    """Write a text for each context by beam search with the adapter merged; afterwards it is unmerged again."""
    numbers = share(range(len(contexts)))
    prompts = encode_prompts([contexts[number] for number in numbers], tokenizer)
    model.eval()
    # In fp32 whatever `train.precision` says: in bf16 ties between the scores of hypotheses would decide. The forward of the PEFT
    # model is wrapped in autocast by accelerate, that of the model inside is not.
    with merged(model), fastest_attention(model.device):
        ids = generate(
            model.get_base_model(), prompts, config.decode, end_tokens(tokenizer), pad_token(tokenizer), on_progress
        )
    texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return [text for _, text in sorted(gather(zip(numbers, texts, strict=True)))]


@contextmanager
def merged(model: PeftModel) -> Iterator[None]:
    """Merge the adapter for a while. Afterwards the base weights, which other runs may share, are what they were bit for bit."""
    layers = [layer for layer in model.modules() if isinstance(layer, MTLoraLayer)]
    weights: list[Any] = [layer.get_base_layer().weight for layer in layers]
    kept = [weight.data for weight in weights]
    try:
        for weight in weights:
            weight.data = weight.data.clone()
        model.merge_adapter()
        yield
    finally:
        for weight, data in zip(weights, kept, strict=True):
            weight.data = data
        for layer in layers:
            layer.merged_adapters.clear()


def score(
    task: TaskConfig, groups: Sequence[Group], texts: Sequence[str], experiment_id: str, official_ter: bool = False
) -> dict[str, dict[str, float]]:
    """Return {split: {metric: value}} for the parts of the test split that `task.metrics` names; empty parts are left out.

    Args:
        groups: the contexts with their references.
        texts: one per group, in the same order.
        experiment_id: one per run, so that runs in parallel never share state.
        official_ter: count one trailing blank line as an error, as the official TER script does.
    """
    if len(groups) != len(texts):
        raise UserError(f"{len(texts)} texts for {len(groups)} contexts: one text for each context is needed")
    scores = {}
    for split, names in task.metrics.items():
        chosen = [(text, group) for text, group in zip(texts, groups, strict=True) if in_part(task, group, split)]
        if chosen:
            hypotheses, references = [text for text, _ in chosen], [list(group.references) for _, group in chosen]
            scores[split] = compute_texts(names, task.scoring, hypotheses, references, experiment_id, official_ter)
    return scores


def in_part(task: TaskConfig, group: Group, split: str) -> bool:
    """Tell whether a context belongs to `test` or `test_A` (all), `test_S` (a category of the training data) or `test_U`."""
    seen = group.category in task.seen
    return {"test": True, "test_A": True, "test_S": seen, "test_U": not seen}[split]


def read_records(path: Path) -> tuple[list[Group], list[str]]:
    """Read a `predictions.jsonl`: contexts with their references, and the texts.

    Raises:
        UserError: the file cannot be read, or a line is not an object with context, category, references and prediction.
    """
    groups, texts = [], []
    for number, line in numbered_lines(read_text(path)):
        try:
            row = json.loads(line)
            references = tuple(str(reference) for reference in row["references"])
            groups.append(Group(str(row["context"]), references, str(row["category"])))
            texts.append(str(row["prediction"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: not a row with context, category, references and prediction ({error})"
            ) from None
    if not groups:
        raise UserError(f"{path} is empty: it should have one text for each context")
    return groups, texts
