"""Contexts, the facts for which a text is generated, and the references with which it is compared."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mtlora.base.errors import UserError
from mtlora.base.files import checked_text
from mtlora.records.predictions import Context


@dataclass(frozen=True)
class Sentence:
    """One text of a data-to-text file, and the facts that it states, in one line."""

    context: str
    text: str
    category: str = ""


def checked_sentence(context: str, text: Any, category: Any = "") -> Sentence:
    """Return a sentence of any source: a file, the hub or the built-in data. A text of None, as DART has, is empty.

    Raises:
        ValueError: the text or the category is no text.
    """
    written = "" if text is None else checked_text(text, "the text")
    return Sentence(context, written, checked_text(category, "the category"))


def linearise(facts: Any, lower_relation: bool = False, parts: int = 3) -> str:
    """Check facts of any source, and write them as `subject : relation : object | ...` (LoRA, arXiv 2106.09685, its GPT-2 data).

    Args:
        facts: a list of lists: (subject, relation, object) triples, or (attribute, value) pairs.
        lower_relation: lower-case the relation of each triple, as the published DART runs do.
        parts: the number of texts in a fact.

    Raises:
        ValueError: there are no facts, or one is not a list of `parts` texts that are not blank.
    """
    if not isinstance(facts, Sequence) or isinstance(facts, str) or not facts:
        raise ValueError(f"the facts are {facts!r}, not a list of at least one")
    lines = []
    for fact in facts:
        if not isinstance(fact, Sequence) or isinstance(fact, str) or len(fact) != parts:
            raise ValueError(f"the fact {fact!r} is not a list of {parts} texts")
        texts = [checked_text(part, "a part of a fact") for part in fact]
        if not all(map(str.strip, texts)):
            raise ValueError(f"the fact {fact!r} has a blank part")
        if lower_relation:
            texts[1] = texts[1].lower()
        lines.append(" : ".join(texts))
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
