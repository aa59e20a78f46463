"""MNLI and RTE in miniature: does the premise entail the hypothesis, contradict it, or leave it open?"""

from dataclasses import replace
from random import Random

from .changes import drop, generalise, oppose, reword, set_details, swap_roles
from .lexicon import TOWN, WILD, Genre
from .scenes import Scene, draw_scene, sentence, tell

ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)

# Possible consequences of an event: neutral hypotheses that no detail of the premise decides.
_SEQUELS = (
    "the {agent} was proud of what had happened",
    "the {agent} did not tell anybody about it",
    "nobody had expected that from the {agent}",
    "the {agent} did not regret it afterwards",
)


def draw_mnli(rng: Random, split: str, label: int) -> tuple[str, str]:
    """Premise and hypothesis; the mismatched split has another genre: other words, and openings as of speech and diaries."""
    genre = WILD if split == "validation_mismatched" else TOWN
    return _draw(rng, genre, split != "train", details=rng.choice((1, 1, 2)), relation=label)


def draw_rte(rng: Random, split: str, label: int) -> tuple[str, str]:
    """A longer text and a hypothesis; class 1 joins "neutral" and "contradiction"."""
    relation = ENTAILMENT if label == 0 else rng.choice((NEUTRAL, CONTRADICTION))
    return _draw(rng, TOWN, split != "train", details=2, relation=relation)


def _draw(rng: Random, genre: Genre, held_out: bool, details: int, relation: int) -> tuple[str, str]:
    scene = draw_scene(rng, genre, held_out, details)
    opening = rng.choice(genre.openings)
    text = tell(scene, rng.choice(("active", "active", "fronted", "passive")))
    premise = sentence(opening + text[:1].lower() + text[1:-1]) if opening else text
    hypothesis = (_entailed, _open, _contradicted)[relation](rng, scene)
    return premise, hypothesis


def _told(rng: Random, scene: Scene) -> str:
    return tell(scene, rng.choice(("active", "active", "active", "passive")))


def _shorter(rng: Random, scene: Scene, keep: tuple[str, ...] = ()) -> Scene:
    """The scene without some of its details."""
    names = [name for name in scene.present() if name not in keep]
    return drop(scene, rng.sample(names, rng.randint(min(1, len(names)), len(names))))


def _entailed(rng: Random, scene: Scene) -> str:
    if rng.random() < 0.08:  # "did not sell", so that a negation alone does not give away the class
        return tell(replace(oppose(drop(scene, scene.present())), negated=True))
    shorter = _shorter(rng, scene)
    return _told(rng, reword(generalise(rng, shorter, rng.choice((0, 1, 2))), 0.3, rng))


def _open(rng: Random, scene: Scene) -> str:
    if rng.random() < 0.4:
        return sentence(rng.choice(_SEQUELS).format(agent=scene.agent.word))
    absent = [name for name in ("adjective", "place", "time", "manner", "manner") if name not in scene.present()]
    return _told(rng, set_details(rng, _shorter(rng, scene), [rng.choice(absent)]))


def _contradicted(rng: Random, scene: Scene) -> str:
    ways = ["negate", "negate", "oppose", *(name for name in scene.present() if name != "manner")]
    if scene.action.kind == "person":
        ways.append("swap")
    way = rng.choice(ways)
    shorter = reword(_shorter(rng, scene, keep=(way,)), 0.2, rng)
    if way == "negate":
        return _told(rng, replace(shorter, negated=True))
    if way == "oppose":
        return _told(rng, oppose(shorter))
    if way == "swap":
        return _told(rng, swap_roles(shorter))
    if way == "adjective" and shorter.adjective:
        return _told(rng, replace(shorter, adjective=replace(shorter.adjective, word=shorter.adjective.antonym)))
    return _told(rng, set_details(rng, shorter, [way]))
