"""Pretraining text of the small decoder: prose, notes followed by prose, and lists, with names of the background space."""

import re
from collections.abc import Callable, Iterator
from random import Random

from .facts import Book, Entity, Fact, Relation, Topic, draw_entity, draw_facts
from .names import MAKERS, belongs, coin, words
from .phrasing import tell
from .scenes import sentence

Writer = Callable[[Random, tuple[Book, ...]], str]

WORDS = range(40, 151)  # of a document
_SPACE = "background"
_SHARES = (0.4, 0.4, 0.2)  # of prose, notes and lists

_REMARKS = [
    remark.strip()
    for remark in """
    Few people outside the area have heard of it. | Not much else is known. | The records were lost in a fire.
    | Visitors often ask about this. | Some of the older sources disagree. | This was reported in several newspapers.
    | There is a small sign at the entrance. | Nobody could say why. | In the winter, things are much quieter.
    | The rest of the story is told elsewhere. | It took a long time to find this out. | Many letters mention it.
    """.replace("\n", " ").split("|")
]
_TITLES = ("Notes on {}", "{}", "Facts about {}", "Entry: {}", "What we know of {}", "File on {}")
_LINES = ("- {}: {}", "* {} is {}", "{} = {}", "{} -> {}", "{}, {}", "[{}] {}")
_FIELDS = words("code tag size label mark key batch note owner colour date weight part level room seat route price")
_NAME_KINDS = words("person city country company building university team title restaurant dish band ship station")


def draw_documents(rng: Random, documents: int, books: tuple[Book, ...]) -> Iterator[str]:
    """Random documents; each has a number of words in ``WORDS``."""
    writers: tuple[Writer, ...] = (_prose, _notes, _lists)
    for _ in range(documents):
        yield _grow(rng, rng.choices(writers, _SHARES)[0], books)


def _grow(rng: Random, writer: Writer, books: tuple[Book, ...]) -> str:
    """Parts by one writer until the document is long enough."""
    wanted = rng.randint(WORDS.start, 100)
    text = writer(rng, books)
    while len(text.split()) < wanted:
        longer = text + (" " if writer is _prose else "\n\n") + writer(rng, books)
        if len(longer.split()) < WORDS.stop:
            text = longer
    return text


def _draw(rng: Random, books: tuple[Book, ...]) -> tuple[Book, Entity, list[Fact]]:
    """A random entity of any topic with facts about it."""
    book = rng.choices(books, (0.5, 0.25, 0.25))[0]
    topic: Topic = rng.choice(book.topics)
    entity = draw_entity(rng, _SPACE, topic)
    return book, entity, draw_facts(rng, _SPACE, book, topic, entity, rng.randint(1, 5))


def _tell(rng: Random, book: Book, entity: Entity, facts: list[Fact]) -> str:
    """The facts as prose, in part with phrasings that no reference of the splits has."""

    def pick(relation: Relation) -> str:
        return rng.choice(relation.reserved if rng.random() < 0.3 else relation.phrasings)

    return tell(rng, entity, facts, book, pick)


def _prose(rng: Random, books: tuple[Book, ...]) -> str:
    """A few sentences about an entity, sometimes with a remark."""
    book, entity, facts = _draw(rng, books)
    remark = " " + rng.choice(_REMARKS) if rng.random() < 0.2 else ""
    return _tell(rng, book, entity, facts) + remark


def _notes(rng: Random, books: tuple[Book, ...]) -> str:
    """Facts in short lines, then the same facts as prose."""
    book, entity, facts = _draw(rng, books)
    plain_labels, underscores = rng.random() < 0.6, rng.random() < 0.5
    form = rng.choice(_LINES)
    items = []
    for subject, relation, value in facts:
        label = plain_label(relation) if plain_labels else relation
        items.append((label if subject == entity.name else f"{label} of {subject}", value))
    if rng.random() < 0.5:
        lines = [form.format("name", entity.name)] + [form.format(*item) for item in items]
    elif rng.random() < 0.5:
        lines = [rng.choice(_TITLES).format(entity.name)] + [form.format(*item) for item in items]
    else:  # every line names its subject
        lines = [f"{subject}, {label}, {value}" for (subject, _, _), (label, value) in zip(facts, items, strict=True)]
    if underscores:
        for name in sorted({part for subject, _, value in facts for part in (subject, value)}, key=len, reverse=True):
            lines = [line.replace(name, name.replace(" ", "_")) for line in lines]
    notes = rng.choice(("; ", "\n", "\n")).join(lines)
    return notes + rng.choice(("\n\n", "\n", "\nIn prose: ", "\n=> ")) + _tell(rng, book, entity, facts)


def plain_label(relation: str) -> str:
    """A relation in plain words: "birthPlace" and "BIRTH_PLACE" become "birth place"."""
    words = relation if relation.isupper() else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", relation)
    return words.replace("_", " ").lower()


def _lists(rng: Random, books: tuple[Book, ...]) -> str:
    """Names or arbitrary values in a list, and again after it."""
    return rng.choice((_roll, _form, _copies))(rng)


def _roll(rng: Random) -> str:
    """A list of names, and sentences with the same names."""
    kind = rng.choice(_NAME_KINDS)
    names = [MAKERS[kind](rng, _SPACE) for _ in range(rng.randint(3, 6))]
    head = rng.choice(("On the list", "Present", "Entries", "Index", "In order"))
    told = [
        rng.choice(("{} is listed before {}", "{} stands next to {} on the page", "{} was added later than {}")).format(
            *two
        )
        for two in (rng.sample(names, 2) for _ in range(2))
    ]
    last = f"the first entry is {names[0]} and the last entry is {names[-1]}"
    separator = rng.choice((", ", "; ", "\n- "))
    return f"{head}: {separator.join(names)}\n" + " ".join(sentence(text) for text in [*told, last])


def _form(rng: Random) -> str:
    """Fields with arbitrary values, and sentences that state them."""
    fields = rng.sample(_FIELDS, rng.randint(2, 5))
    values = [_arbitrary(rng) for _ in fields]
    form = rng.choice(_LINES)
    lines = [form.format(*item) for item in zip(fields, values, strict=True)]
    clauses = [f"the {field} is {value.replace('_', ' ')}" for field, value in zip(fields, values, strict=True)]
    if rng.random() < 0.5:
        prose = " ".join(sentence(clause) for clause in clauses)
    else:
        prose = sentence(" and ".join([", ".join(clauses[:-1]), clauses[-1]]))
    return rng.choice(("; ", "\n")).join(lines) + "\n" + prose


def _copies(rng: Random) -> str:
    """The same arbitrary values twice: in the same order, reversed, or with spaces for underscores."""
    values = [_arbitrary(rng) for _ in range(rng.randint(3, 7))]
    how = rng.choice(("copy", "backwards", "spaces"))
    again = values[::-1] if how == "backwards" else values
    if how == "spaces":
        again = [value.replace("_", " ") for value in again]
    return f"list: {', '.join(values)}\n{how}: {', '.join(again)}."


def _arbitrary(rng: Random) -> str:
    """Any string that one may have to copy: a name, a number, a date, a code or nonsense."""
    which = rng.randrange(7)
    if which == 0:
        return MAKERS[rng.choice(_NAME_KINDS)](rng, _SPACE).replace(" ", "_")
    if which == 1:
        return MAKERS[rng.choice(("date", "longdate", "runway", "score", "many", "metres", "size"))](rng, _SPACE)
    if which == 2:
        return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 6)))
    if which == 3:
        letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(2))
        return f"{letters}-{rng.randint(10, 99999)}"
    if which == 4:
        return f"{rng.randint(0, 9999)}.{rng.randint(0, 999)}"
    if which == 5:
        return "_".join(coin(rng, _SPACE) for _ in range(rng.randint(2, 3)))
    while True:
        word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(4, 8))).capitalize()
        if belongs(word, _SPACE):
            return word
