"""Our own data-to-text entries in the style of WebNLG, DART and E2E, and the pretraining text of the small decoder.

All names are invented, and the names of one split occur in no other split and not in the pretraining text, so that a
model has to copy them. The rows are the same on every machine. A model that copies names and has learned the
phrasings does well on them. Scores measured on them show whether a method trains, but not its rank on the real tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from mtlora.base.errors import UserError

from . import encyclopedia, prose, restaurants, rows
from .facts import Fact, Relation, Topic, draw_entity, draw_facts
from .phrasing import tell

TRAIN_ENTRIES = 360
VALIDATION_ENTRIES = 60
TEST_ENTRIES = 120
WORDS = range(8, 46)  # the allowed lengths of a text

TRIPLE_SPLITS = {"train": TRAIN_ENTRIES, "validation": VALIDATION_ENTRIES, "test": TEST_ENTRIES}
_BOOKS = {"webnlg": encyclopedia.BOOK, "dart": rows.BOOK, "e2e": restaurants.BOOK}
_FACT_COUNTS = ((1, 2, 3, 4), (0.15, 0.35, 0.32, 0.18))
_ATTRIBUTE_COUNTS = ((2, 3, 4, 5, 6, 7), (0.2, 0.3, 0.25, 0.15, 0.07, 0.03))  # of e2e, besides the name
_REFERENCES = ((2, 3, 4), (0.3, 0.4, 0.3))
_TRIES = 20  # drawings of a text for the same facts before new facts are drawn


@dataclass(frozen=True)
class Entry:
    """Facts and the texts that state them.

    ``facts`` are (subject, relation, object), for e2e ("", attribute, value). A name in a fact of webnlg has
    underscores where a text has spaces. Every text has every subject and object, except the yes or no of
    ``familyFriendly``, which a text expresses with a word that begins with "famil" or "child".
    """

    facts: tuple[Fact, ...]
    texts: tuple[str, ...]
    category: str


def generate_entries(task: str, split: str) -> list[Entry]:
    """All entries of a split of webnlg, dart or e2e; half of the test split of webnlg are of unseen categories.

    Raises ``UserError`` for an unknown task or split.
    """
    if task not in _BOOKS:
        raise UserError(f"source 'builtin' has no task {task!r}; use one of: {', '.join(_BOOKS)}")
    if split not in TRIPLE_SPLITS:
        raise UserError(
            f"task {task!r} of source 'builtin' has no split {split!r}; use one of: {', '.join(TRIPLE_SPLITS)}"
        )
    rng = Random(f"mtlora builtin {task} {split}")
    entries: list[Entry] = []
    contexts: set[frozenset[Fact]] = set()
    for topic in _plan_topics(rng, task, split):
        count = rng.choices(*(_ATTRIBUTE_COUNTS if task == "e2e" else _FACT_COUNTS))[0]
        entry = None
        while entry is None or frozenset(entry.facts) in contexts:
            entry = _draw_entry(rng, split, task, topic, count)
        contexts.add(frozenset(entry.facts))
        entries.append(entry)
    return entries


def background_text(seed: int, documents: int) -> Iterator[str]:
    """Documents of 40 to 150 words from the same world, without any name of the splits and in no linearised form.

    About 40% are prose, 40% are notes followed by prose that states them, 20% repeat names in lists.
    """
    return prose.draw_documents(Random(f"mtlora background {seed}"), documents, tuple(_BOOKS.values()))


def _plan_topics(rng: Random, task: str, split: str) -> list[Topic]:
    """The topic of each entry: equal shares, in random order; of webnlg's test split, seen before unseen ones."""
    topics, total = _BOOKS[task].topics, TRIPLE_SPLITS[split]
    if task != "webnlg":
        groups = [topics]
    else:
        groups = [tuple(topic for topic in topics if topic.category in encyclopedia.SEEN)]
        if split == "test":
            groups.append(tuple(topic for topic in topics if topic.category in encyclopedia.UNSEEN))
    plan: list[Topic] = []
    for group in groups:
        part = [group[index % len(group)] for index in range(total // len(groups))]
        rng.shuffle(part)
        plan += part
    return plan


def _draw_entry(rng: Random, space: str, task: str, topic: Topic, count: int) -> Entry | None:
    """An entry with this many facts, or None if the facts do not allow enough texts of the right length."""
    book = _BOOKS[task]
    entity = draw_entity(rng, space, topic)
    facts = draw_facts(rng, space, book, topic, entity, count)
    starts = {book.lookup(fact).name: rng.randrange(12) for fact in facts}
    wanted = rng.choices(*_REFERENCES)[0]
    texts: list[str] = []
    for turn in range(_TRIES):

        def pick(relation: Relation, turn: int = turn) -> str:
            return relation.phrasings[(starts[relation.name] + turn) % len(relation.phrasings)]

        told = _swap(rng, facts) if texts and rng.random() < 0.3 else facts
        text = tell(rng, entity, told, book, pick)
        if text not in texts and len(text.split()) in WORDS:
            texts.append(text)
        if len(texts) == wanted:
            return Entry(_as_written(task, facts), tuple(texts), topic.category)
    return None


def _swap(rng: Random, facts: list[Fact]) -> list[Fact]:
    """The same facts with two of them swapped, the chained ones left in place."""
    movable = [index for index, fact in enumerate(facts) if fact[0] == facts[0][0]]
    if len(movable) < len(facts):
        movable.pop()
    if len(movable) < 2:
        return facts
    first, second = sorted(rng.sample(movable, 2))
    told = list(facts)
    told[first], told[second] = facts[second], facts[first]
    return told


def _as_written(task: str, facts: list[Fact]) -> tuple[Fact, ...]:
    """The facts as the data set writes them."""
    if task == "e2e":
        return (("", "name", facts[0][0]), *(("", attribute, value) for _, attribute, value in facts))
    if task == "webnlg":
        return tuple((subject.replace(" ", "_"), name, value.replace(" ", "_")) for subject, name, value in facts)
    return tuple(facts)
