"""STS-B in miniature: how similar are two sentences, from 0 (nothing in common) to 5 (the same meaning)?"""

from dataclasses import replace
from random import Random

from .changes import change_noun, drop, generalise, oppose, reword, set_details
from .lexicon import TOWN
from .scenes import Scene, draw_scene, tell


def draw_stsb(rng: Random, split: str, level: int) -> tuple[str, str]:
    """Two sentences that share as much as the level requires."""
    held_out = split != "train"
    scene = draw_scene(rng, TOWN, held_out, details=1)
    other = _at_level(rng, scene, level, held_out)
    return tell(scene), tell(reword(other, 0.2, rng), rng.choice(("active", "fronted", "passive")))


def _at_level(rng: Random, scene: Scene, level: int, held_out: bool) -> Scene:
    if level == 5:
        return scene
    if level == 4:  # a detail is missing or less exact
        return rng.choice((drop(scene, rng.sample(scene.present(), 1)), generalise(rng, scene, 1)))
    if level == 3:  # a detail, or one person or thing, is another one
        return rng.choice((set_details(rng, scene, rng.sample(scene.present(), 1)), change_noun(rng, scene, "thing")))
    if level == 2:  # the main fact is another one
        return rng.choice((oppose(scene), change_noun(rng, change_noun(rng, scene, "agent"), "thing")))
    other = draw_scene(rng, scene.genre, held_out, details=1)
    if level == 1:  # only the agent, or only the place or time, is shared
        return rng.choice((replace(other, agent=scene.agent), replace(other, place=scene.place, time=scene.time)))
    return other
