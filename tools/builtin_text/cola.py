"""CoLA in miniature: is a sentence acceptable English?"""

from itertools import pairwise
from random import Random

from .lexicon import TOWN, indefinite, plural
from .scenes import is_held_out, sentence

# First an acceptable sentence, then unacceptable ones: wrong agreement or verb form, wrong order, a missing word.
_PATTERNS = (
    (
        "the {many} {past} {a_thing} {place}",
        "the {many} {past} {thing} {place}",
        "the {many} {a_thing} {past} {place}",
        "the {many} did {past} {a_thing} {place}",
    ),
    (
        "the {many} do not {base} {things}",
        "the {many} does not {base} {things}",
        "the {many} not {base} {things}",
        "the {many} {base} do not {things}",
    ),
    (
        "did the {one} {base} {a_thing} yesterday?",
        "did the {one} {base} {thing} yesterday?",
        "did the {one} has {base} {a_thing} yesterday?",
        "did {base} the {one} {a_thing} yesterday?",
    ),
    (
        "the {one} who {past} {a_thing} was tired",
        "the {one} who {past} {a_thing} were tired",
        "the {one} {past} {a_thing} was tired",
        "the {one} who {a_thing} {past} was tired",
    ),
    (
        "it was the {one} who {past} the {thing}",
        "it were the {one} who {past} the {thing}",
        "it was {one} who {past} the {thing}",
        "it was the {one} {past} who the {thing}",
    ),
    (
        "{a_thing} was {participle} by the {one}",
        "{a_thing} were {participle} by the {one}",
        "{a_thing} was {participle} the {one}",
        "{a_thing} {participle} was by the {one}",
    ),
    (
        "the {one} wants to {base} the {thing}",
        "the {one} want to {base} the {thing}",
        "the {one} wants {base} the {thing}",
        "the {one} to {base} wants the {thing}",
    ),
    (
        "the {one} told the {one2} to leave",
        "the {one} told the {one2} to left",
        "the {one} told to the {one2} leave",
        "the {one} the {one2} told to leave",
    ),
)


def draw_cola(rng: Random, split: str, label: int) -> tuple[str]:
    """A sentence from an acceptable pattern (1), or from its unacceptable variant or with scrambled words (0)."""
    while True:
        pattern, one, action = (rng.randrange(len(table)) for table in (_PATTERNS, TOWN.people, TOWN.actions))
        if is_held_out(pattern, one, action) == (split != "train"):
            break
    acceptable, *unacceptable = _PATTERNS[pattern]
    verb = TOWN.actions[action].verb
    thing = rng.choice(TOWN.things[TOWN.actions[action].kind]).word
    scrambled = not label and rng.random() < 0.4
    text = (acceptable if label or scrambled else rng.choice(unacceptable)).format(
        one=TOWN.people[one].word,
        many=plural(TOWN.people[one].word),
        one2=rng.choice([noun.word for noun in TOWN.people if noun != TOWN.people[one]]),
        base=verb.base,
        past=verb.past,
        participle=verb.participle,
        thing=thing,
        things=plural(thing),
        a_thing=indefinite(thing),
        place=rng.choice(TOWN.places).word,
    )
    mark = "?" if text.endswith("?") else "."
    text = text.removesuffix("?")
    return (sentence(_scrambled(rng, text) if scrambled else text, mark),)


def _scrambled(rng: Random, text: str) -> str:
    """The words in a random order that leaves fewer than half of them before their original neighbour."""
    words = text.split()
    neighbours = set(pairwise(words))
    while True:
        order = rng.sample(words, len(words))
        if 2 * len(neighbours & set(pairwise(order))) < len(neighbours):
            return " ".join(order)
