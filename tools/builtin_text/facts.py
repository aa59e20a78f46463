"""Topics, their relations with several phrasings each, and random facts about an entity."""

import re
from dataclasses import dataclass
from random import Random

from .names import MAKERS, pronoun

Fact = tuple[str, str, str]


@dataclass(frozen=True)
class Relation:
    """A relation to an object of one kind, and its phrasings.

    A phrasing is a predicate with ``{o}`` for the object (``{a}``: with its article, ``{its}``: its, his or her), or a
    whole clause if it contains ``{s}`` for the subject. ``reserved`` phrasings are for background text only.
    """

    name: str
    kind: str
    phrasings: tuple[str, ...]
    reserved: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """A kind of entity: its category, the noun for it, the kind of its names and its relations."""

    category: str
    noun: str
    kind: str
    relations: tuple[str, ...]


@dataclass(frozen=True)
class Entity:
    """Someone or something with a name, a noun ("airport") and a pronoun."""

    name: str
    noun: str
    pronoun: str


@dataclass(frozen=True)
class Book:
    """All topics, relations and phrasings of a data set.

    ``pairs`` has predicates that tell two relations at once (``{o}`` and ``{p}``; ``{a}`` and ``{b}`` with article);
    ``chains`` the relations that an object of some kind can have itself.
    """

    topics: tuple[Topic, ...]
    relations: dict[str, Relation]
    pairs: dict[tuple[str, str], tuple[str, ...]]
    chains: dict[str, tuple[str, ...]]
    ordered: bool = False  # whether the facts keep the order of the topic's relations

    def lookup(self, fact: Fact) -> Relation:
        """The relation of a fact; a yes-or-no relation has an entry for each answer."""
        return self.relations.get(f"{fact[1]}={fact[2]}") or self.relations[fact[1]]


def _cells(table: str) -> list[list[str]]:
    """The cells of a table: columns separated by ``|``; a line that starts with one continues the row before."""
    lines = re.sub(r"\n\s*\|", " |", table.strip()).splitlines()
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def parse_relations(table: str) -> dict[str, Relation]:
    """Relations from lines ``name | kind | phrasing | phrasing | ... | reserved phrasing``."""
    rows = [(name, kind, phrasings) for name, kind, *phrasings in _cells(table)]
    return {name: Relation(name, kind, tuple(cells[:-1]), tuple(cells[-1:])) for name, kind, cells in rows}


def parse_topics(table: str) -> tuple[Topic, ...]:
    """Topics from lines ``category | noun | kind of name | relation, relation, ...``."""
    rows = _cells(table)
    return tuple(Topic(row[0], row[1], row[2], tuple(name.strip() for name in row[3].split(","))) for row in rows)


def parse_pairs(table: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Joint predicates from lines ``relation | relation | phrasing | phrasing | ...``."""
    return {(first, second): tuple(cells) for first, second, *cells in _cells(table)}


def draw_entity(rng: Random, space: str, topic: Topic) -> Entity:
    """A new entity of the topic."""
    name = MAKERS[topic.kind](rng, space)
    return Entity(name, topic.noun, pronoun(name, topic.kind))


def draw_facts(rng: Random, space: str, book: Book, topic: Topic, entity: Entity, count: int) -> list[Fact]:
    """Facts about the entity; in a book with chains the last but one may lead on to a fact about its object."""

    def fact(subject: str, name: str) -> Fact:
        relation = book.relations[name]
        return subject, relation.name, MAKERS[relation.kind](rng, space)

    chainable = [name for name in topic.relations if book.relations[name].kind in book.chains]
    chained = count > 1 and chainable and rng.random() < 0.4
    link = rng.choice(chainable) if chained else ""
    names = rng.sample([name for name in topic.relations if name != link], count - 2 * bool(link))
    if book.ordered:
        names.sort(key=topic.relations.index)
    facts = [fact(entity.name, name) for name in names]
    if link:
        facts.append(fact(entity.name, link))
        facts.append(fact(facts[-1][2], rng.choice(book.chains[book.relations[link].kind])))
    return facts
