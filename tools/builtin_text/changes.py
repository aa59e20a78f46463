"""Ways to change a scene: the same fact in other words, a more general one, another one, the opposite."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from .lexicon import Adjective, Adverbial, Noun
from .scenes import SEVERAL, Scene, detail_choices


def drop(scene: Scene, names: list[str]) -> Scene:
    """The scene without the named details."""
    return replace(scene, **{name: getattr(Scene, name) for name in names})


def set_details(rng: Random, scene: Scene, names: list[str]) -> Scene:
    """The scene with new values for the named details, each incompatible with what it had."""
    return replace(
        scene,
        **{
            name: rng.choice([new for new in detail_choices(scene, name) if _differs(new, getattr(scene, name))])
            for name in names
        },
    )


def _differs(new: object, old: object) -> bool:
    """Whether two details differ; two times or places differ only if neither lies within the other."""
    if isinstance(new, Adverbial) and isinstance(old, Adverbial):
        return new.hypernym != old.hypernym
    if isinstance(new, Adjective) and isinstance(old, Adjective):
        return new.word not in (old.word, old.synonym)
    return new != old


def reword(scene: Scene, share: float, rng: Random) -> Scene:
    """The same scene in other words: each word that has a synonym is replaced with this probability."""

    def noun(old: Noun) -> Noun:
        return replace(old, word=old.synonym, synonym=old.word) if rng.random() < share else old

    action, adjective = scene.action, scene.adjective
    if rng.random() < share:
        action = replace(action, verb=action.synonym, synonym=action.verb)
    if adjective and rng.random() < share:
        adjective = replace(adjective, word=adjective.synonym, synonym=adjective.word)
    return replace(scene, agent=noun(scene.agent), thing=noun(scene.thing), action=action, adjective=adjective)


def oppose(scene: Scene) -> Scene:
    """The scene with the verb of the opposite meaning."""
    action = scene.action
    return replace(scene, action=replace(action, verb=action.antonym, synonym=action.antonym, antonym=action.verb))


def swap_roles(scene: Scene) -> Scene:
    """The scene of two persons with the roles exchanged."""
    return replace(scene, agent=scene.thing, thing=scene.agent)


def generalise(rng: Random, scene: Scene, changes: int) -> Scene:
    """A scene that the given one entails: some of its parts are replaced by more general ones."""

    def wider(adverbial: Adverbial | None) -> Adverbial | None:
        return adverbial and Adverbial(adverbial.hypernym, adverbial.hypernym)

    def hypernym(noun: Noun) -> Noun:
        return Noun(noun.hypernym, noun.hypernym, noun.hypernym)

    options: dict[str, Callable[[], Scene]] = {
        "agent": lambda: replace(scene, agent=hypernym(scene.agent), vague=True),
        "thing": lambda: replace(scene, thing=hypernym(scene.thing)),
        "count": lambda: replace(scene, count=SEVERAL),
        "place": lambda: replace(scene, place=wider(scene.place)),
        "time": lambda: replace(scene, time=wider(scene.time)),
    }
    possible = [name for name in options if name in ("agent", "thing", *scene.present())]
    for name in rng.sample(possible, min(changes, len(possible))):
        scene = options[name]()
    return scene


def change_facts(rng: Random, scene: Scene, count: int) -> Scene:
    """The scene with this many facts changed: agent, thing, verb or details."""
    for way in rng.sample(["agent", "thing", "verb", *scene.present()], count):
        if way == "verb":
            scene = oppose(scene)
        elif way in ("agent", "thing"):
            scene = change_noun(rng, scene, way)
        else:
            scene = set_details(rng, scene, [way])
    return scene


def change_noun(rng: Random, scene: Scene, role: str) -> Scene:
    """The scene with another agent or another thing of the same kind."""
    genre = scene.genre
    nouns = genre.people if role == "agent" else genre.things[scene.action.kind]
    noun = rng.choice([noun for noun in nouns if noun not in (scene.agent, scene.thing)])
    return replace(scene, agent=noun) if role == "agent" else replace(scene, thing=noun)
