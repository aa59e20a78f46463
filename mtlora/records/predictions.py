"""The `predictions.jsonl` of a run."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlora.base.errors import UserError
from mtlora.base.files import checked_text, numbered_lines, parse_json, read_text


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


def is_predictions(path: Path) -> bool:
    """Tell whether a file has a JSON object in its first line, as a `predictions.jsonl` under any name; else it has plain texts.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    first = read_text(path).lstrip().split("\n", 1)[0]
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def read_predictions(path: Path) -> tuple[list[Context], list[str]]:
    """Read a `predictions.jsonl`: contexts with their references, and the texts.

    Raises:
        UserError: the file cannot be read, a line is not an object with context, category, references and prediction, or two
            lines have the same context.
    """
    contexts: dict[Context, str] = {}
    number_of: dict[str, int] = {}
    for number, line in numbered_lines(read_text(path)):
        place = f"{path}:{number}"
        row = parse_json(line, place)
        try:
            context, text = _checked(row)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{place}: not a row with context, category, references and prediction ({error})") from None
        if (earlier := number_of.setdefault(context.facts, number)) != number:
            raise UserError(
                f"{place}: the context {context.facts!r} is that of line {earlier}, too: remove one of them"
            )
        contexts[context] = text
    if not contexts:
        raise UserError(f"{path} is empty: it should have one text for each context")
    return list(contexts), list(contexts.values())


def _checked(row: Any) -> tuple[Context, str]:
    """Return the context and the text of a row; both texts and references may be blank."""
    references = row["references"]
    if not isinstance(references, list):
        raise ValueError("references is not a list of texts")
    texts = tuple(checked_text(reference, "a reference") for reference in references)
    context = Context(checked_text(row["context"], "context"), texts, checked_text(row["category"], "category"))
    return context, checked_text(row["prediction"], "prediction", may_have_nul=True)


def numbers_only(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of the predictions of a classification or regression run: split, index, prediction and label.

    Raises:
        UserError: a row has something else, or a text in place of a number, which may be one of the data set.
    """
    for number, line in numbered_lines(read_text(path)):
        row = parse_json(line, f"{path}:{number}")
        numbers = [row.pop(key, None) for key in ("index", "prediction", "label")] if isinstance(row, dict) else []
        if not numbers or not all(isinstance(value, int | float) for value in numbers) or set(row) != {"split"}:
            raise UserError(
                f"{path}:{number}: not a row with split, and index, prediction and label as numbers, and nothing else: "
                "remove the file to go on without it"
            )
        yield {"split": row["split"], **dict(zip(("index", "prediction", "label"), numbers, strict=True))}
