"""Contexts, the facts for which a text is generated, and the references with which it is compared."""

from collections.abc import Iterable
from dataclasses import dataclass

from mtlora.base.errors import UserError
from mtlora.records.predictions import Context


@dataclass(frozen=True)
class Sentence:
    """One text of a data-to-text file, and the facts that it states, in one line."""

    context: str
    text: str
    category: str = ""


def linearise(facts: Iterable[Iterable[str]], lower_relation: bool = False) -> str:
    """Write facts as `subject : relation : object | ...` (LoRA, arXiv 2106.09685, its GPT-2 data).

    Args:
        facts: (subject, relation, object) triples, or (attribute, value) pairs.
        lower_relation: lower-case the relation of each triple, as the published DART runs do.
    """
    lines = []
    for fact in facts:
        parts = list(fact)
        if lower_relation:
            parts[1] = parts[1].lower()
        lines.append(" : ".join(parts))
    return " | ".join(lines)


def contexts_of(sentences: Iterable[Sentence], max_references: int | None) -> list[Context]:
    """Collect the sentences of each context, by its exact facts, in order of first occurrence.

    Args:
        sentences: the sentences of a test split.
        max_references: how many references of a context count, the first ones; None means all. LoRA's scripts take 6 for DART
            and WebNLG, and all for E2E.

    Raises:
        UserError: a context has no text.
    """
    texts: dict[str, list[str]] = {}
    categories: dict[str, str] = {}
    for sentence in sentences:
        categories.setdefault(sentence.context, sentence.category)
        found = texts.setdefault(sentence.context, [])
        if sentence.text.strip() and (max_references is None or len(found) < max_references):
            found.append(sentence.text)
    if empty := [facts for facts, found in texts.items() if not found]:
        raise UserError(f"the context {empty[0]!r} has no text to compare with: remove it from the data")
    return [Context(facts, tuple(found), categories[facts]) for facts, found in texts.items()]
