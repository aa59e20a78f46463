"""Facts about an entity as a short English text: predicates, joined to sentences in different ways."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from .facts import Book, Entity, Fact, Relation
from .lexicon import indefinite
from .names import pronoun
from .scenes import sentence

PickPhrasing = Callable[[Relation], str]

_POSSESSIVES = {"it": "its", "he": "his", "she": "her"}


@dataclass(frozen=True)
class _Unit:
    """The content of one clause: a predicate or, with ``{s}``, a whole clause; and a statement about its object."""

    text: str
    tail: str = ""
    tail_name: str = ""
    relative: str = ""  # the relative pronoun for the object; empty if the text does not end with it

    @property
    def is_clause(self) -> bool:
        return "{s}" in self.text


def _relative(of: str) -> str:
    return "which" if of == "it" else "who"


def tell(rng: Random, entity: Entity, facts: list[Fact], book: Book, pick: PickPhrasing) -> str:
    """All facts as sentences. The last fact may be about the object of the one before it.

    Args:
        rng: decides how the facts are joined.
        entity: the entity that the facts are about.
        facts: (subject, relation, object), names written with spaces.
        book: the phrasings.
        pick: chooses one of the phrasings of a relation.
    """
    units = _units(rng, entity, facts, book, pick)
    sentences: list[str] = []
    subject = entity.name
    while units:
        group = _take_group(rng, units)
        sentences += _write(rng, group, subject, "" if sentences else _relative(entity.pronoun))
        named_other = group[0].is_clause or bool(group[0].tail)  # "it" could be something else
        subject = entity.pronoun if rng.random() < 0.7 and not named_other else f"the {entity.noun}"
    return " ".join(sentences)


def _units(rng: Random, entity: Entity, facts: list[Fact], book: Book, pick: PickPhrasing) -> list[_Unit]:
    """The facts as clauses, sometimes two of them in one clause, if the book has a joint phrasing."""
    own = [fact for fact in facts if fact[0] == entity.name]
    chained = facts[-1] if facts[-1][0] != entity.name else None
    linked = own.pop() if chained else None
    units: list[_Unit] = []
    while own:
        fact = own.pop(0)
        pair = _find_pair(fact, own, book)
        if pair is not None and rng.random() < 0.5:
            own.remove(pair)
            units.append(_Unit(_fill_pair(rng, entity, fact, pair, book)))
            continue
        template = pick(book.lookup(fact))
        if "{s}" in template and units:  # a whole clause names the entity: only as the first sentence
            template = book.lookup(fact).phrasings[0]
        units.append(_Unit(_fill(template, entity.pronoun, fact[2])))
    if linked and chained:
        template = _predicate(book.lookup(linked), pick)
        kind = book.lookup(linked).kind
        tail = _fill(_predicate(book.lookup(chained), pick), pronoun(chained[0], kind), chained[2])
        relative = _relative(pronoun(chained[0], kind)) if template.endswith("{o}") else ""
        units.append(_Unit(_fill(template, entity.pronoun, linked[2]), tail, chained[0], relative))
    return units


def _predicate(relation: Relation, pick: PickPhrasing) -> str:
    """A phrasing that is not a whole clause."""
    template = pick(relation)
    return relation.phrasings[0] if "{s}" in template else template


def _find_pair(fact: Fact, others: list[Fact], book: Book) -> Fact | None:
    """The first other fact that the book can tell together with this one."""
    for other in others:
        if (fact[1], other[1]) in book.pairs or (other[1], fact[1]) in book.pairs:
            return other
    return None


def _fill_pair(rng: Random, entity: Entity, fact: Fact, other: Fact, book: Book) -> str:
    if (fact[1], other[1]) not in book.pairs:
        fact, other = other, fact
    template = rng.choice(book.pairs[fact[1], other[1]])
    return template.format(
        o=fact[2], p=other[2], a=indefinite(fact[2]), b=indefinite(other[2]), its=_POSSESSIVES[entity.pronoun]
    )


def _fill(template: str, subject_pronoun: str, value: str) -> str:
    """The template with its object; ``{s}`` stays."""
    return template.format(o=value, a=indefinite(value), its=_POSSESSIVES[subject_pronoun], s="{s}")


def _take_group(rng: Random, units: list[_Unit]) -> list[_Unit]:
    """Remove and return the clauses of the next sentence: whole clauses and those with a tail stand alone."""
    size = rng.choices((1, 2, 3), (0.3, 0.5, 0.2))[0]
    group = [units.pop(0)]
    while units and len(group) < size and not (group[0].is_clause or group[0].tail or units[0].tail):
        group.append(units.pop(0))
    return group


def _write(rng: Random, group: list[_Unit], subject: str, relative: str) -> list[str]:
    """The clauses as one sentence, or as two if a tail becomes a sentence of its own.

    ``relative`` is the relative pronoun after the subject, or empty where the subject takes no relative clause.
    """
    unit, *others = group
    if unit.is_clause:
        return [sentence(unit.text.format(s=subject))]
    if unit.tail:
        if unit.relative and rng.random() < 0.6:
            return [sentence(f"{subject} {unit.text}, {unit.relative} {unit.tail}")]
        return [sentence(f"{subject} {unit.text}"), sentence(f"{unit.tail_name} {unit.tail}")]
    if not others:
        return [sentence(f"{subject} {unit.text}")]
    texts = [other.text for other in others]
    if relative and rng.random() < 0.5:
        return [sentence(f"{subject}, {relative} {unit.text}, {' and '.join(texts)}")]
    if len(texts) == 1:
        return [sentence(f"{subject} {unit.text} and {texts[0]}")]
    return [sentence(f"{subject} {unit.text}, {texts[0]}, and {texts[1]}")]
