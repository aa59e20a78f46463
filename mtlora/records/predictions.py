"""The `predictions.jsonl` of a data-to-text run."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlora.base.errors import UserError
from mtlora.base.files import numbered_lines, read_text


@dataclass(frozen=True)
class Context:
    """One context of the test split: its facts in one line, and the references with which its text is compared."""

    facts: str
    references: tuple[str, ...]  # in file order, repeats kept, empty texts left out
    category: str


def text_rows(contexts: Sequence[Context], texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a `predictions.jsonl`, one for each context."""
    for context, text in zip(contexts, texts, strict=True):
        row = {"context": context.facts, "references": context.references, "category": context.category}
        yield row | {"prediction": text}


def read_predictions(path: Path) -> tuple[list[Context], list[str]]:
    """Read a `predictions.jsonl`: contexts with their references, and the texts.

    Raises:
        UserError: the file cannot be read, or a line is not an object with context, category, references and prediction.
    """
    contexts, texts = [], []
    for number, line in numbered_lines(read_text(path)):
        try:
            row = json.loads(line)
            references = tuple(str(reference) for reference in row["references"])
            contexts.append(Context(str(row["context"]), references, str(row["category"])))
            texts.append(str(row["prediction"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: not a row with context, category, references and prediction ({error})"
            ) from None
    if not contexts:
        raise UserError(f"{path} is empty: it should have one text for each context")
    return contexts, texts
