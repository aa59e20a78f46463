"""Scenes of one event each (agent, action, thing, place, time, manner), and their sentences in English."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from .lexicon import MANNERS, NUMBERS, Action, Adjective, Adverbial, Genre, Noun, indefinite, plural

DETAILS = ("count", "adjective", "place", "time", "manner")
SEVERAL = 0  # the count of a scene with "several" instead of a number
_HELD_OUT_SHARE = 4  # one combination in four belongs to the validation splits


def is_held_out(*indices: int) -> bool:
    """Whether a combination of words, given by their positions in the tables, is kept for validation.

    Then each word occurs in both splits, but no combination does.
    """
    return sum(indices) % _HELD_OUT_SHARE == 0


@dataclass(frozen=True)
class Scene:
    """An event. Absent details are None, "" or, for the count, 1; a vague agent is "a doctor", not "the doctor"."""

    genre: Genre
    agent: Noun
    action: Action
    thing: Noun
    count: int = 1
    adjective: Adjective | None = None
    place: Adverbial | None = None
    time: Adverbial | None = None
    manner: str = ""
    vague: bool = False
    negated: bool = False

    def present(self) -> list[str]:
        """The names of the details that the scene has."""
        return [name for name in DETAILS if getattr(self, name) != getattr(Scene, name)]


def draw_scene(rng: Random, genre: Genre, held_out: bool, details: int) -> Scene:
    """A random scene with this many details, from the held-out combinations of words or from the others."""
    while True:
        agent, action = rng.randrange(len(genre.people)), rng.randrange(len(genre.actions))
        things = genre.things[genre.actions[action].kind]
        thing = rng.randrange(len(things))
        if things[thing] != genre.people[agent] and is_held_out(agent, action, thing) == held_out:
            scene = Scene(genre, genre.people[agent], genre.actions[action], things[thing])
            names = rng.sample(DETAILS, details)
            return replace(scene, **{name: rng.choice(detail_choices(scene, name)) for name in names})


def detail_choices(scene: Scene, name: str) -> Sequence[Any]:
    """All values that a detail can have in the scene."""
    if name == "count":
        return range(2, 2 + len(NUMBERS))
    if name == "adjective":
        return [adjective for adjective in scene.genre.adjectives if adjective.kind == scene.action.kind]
    return {"place": scene.genre.places, "time": scene.genre.times, "manner": MANNERS}[name]


def tell(scene: Scene, style: str = "active") -> str:
    """The scene as an English sentence: "active", "passive" (not if negated) or "fronted" (time or place first)."""
    where_and_when = [adverbial.word for adverbial in (scene.place, scene.time) if adverbial]
    front = f"{where_and_when.pop()}, " if style == "fronted" and where_and_when else ""
    agent, thing = agent_phrase(scene), thing_phrase(scene)
    verb = scene.action.verb
    if style == "passive" and not scene.negated:
        core = f"{thing} {'was' if scene.count == 1 else 'were'} {verb.participle} by {agent}"
    else:
        core = f"{agent} {f'did not {verb.base}' if scene.negated else verb.past} {thing}"
    return sentence(" ".join([front + core, *filter(None, [scene.manner]), *where_and_when]))


def agent_phrase(scene: Scene) -> str:
    """The agent with its article."""
    return indefinite(scene.agent.word) if scene.vague else f"the {scene.agent.word}"


def thing_phrase(scene: Scene) -> str:
    """The thing with its number or article and its adjective: "a big car", "three cars", "several cars", "any cars"."""
    adjective = f"{scene.adjective.word} " if scene.adjective else ""
    if scene.negated:
        return f"any {adjective}{plural(scene.thing.word)}"
    if scene.count == 1:
        return indefinite(adjective + scene.thing.word)
    number = "several" if scene.count == SEVERAL else NUMBERS[scene.count - 2]
    return f"{number} {adjective}{plural(scene.thing.word)}"


def sentence(text: str, end: str = ".") -> str:
    """The text with a capital letter and a final mark."""
    return text[0].upper() + text[1:] + end
