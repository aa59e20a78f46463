"""What a text is generated for (a context, facts in one line) and the texts it is compared with."""

from collections.abc import Iterable
from dataclasses import dataclass

from mtlora.base.errors import UserError


@dataclass(frozen=True)
class Pair:
    """One text and the facts that it states, in one line."""

    context: str
    text: str
    category: str = ""


@dataclass(frozen=True)
class Group:
    """One context of the test split, decoded once, with all texts that count as right."""

    context: str
    references: tuple[str, ...]  # in file order, repeats kept, empty texts left out
    category: str


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


def group_pairs(pairs: Iterable[Pair], max_references: int | None) -> list[Group]:
    """Group rows by their exact context string, in order of first occurrence.

    Args:
        pairs: the rows of a test split.
        max_references: how many texts of a context count, the first ones; None: all. LoRA's scripts take 6 for DART and WebNLG
            and all for E2E.

    Raises:
        UserError: a context has no text.
    """
    texts: dict[str, list[str]] = {}
    categories: dict[str, str] = {}
    for pair in pairs:
        categories.setdefault(pair.context, pair.category)
        found = texts.setdefault(pair.context, [])
        if pair.text.strip() and (max_references is None or len(found) < max_references):
            found.append(pair.text)
    if empty := [context for context, found in texts.items() if not found]:
        raise UserError(f"the context {empty[0]!r} has no text to compare with: remove it from the data")
    return [Group(context, tuple(found), categories[context]) for context, found in texts.items()]
