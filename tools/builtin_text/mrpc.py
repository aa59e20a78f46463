"""MRPC in miniature: do two sentences of a town chronicle report the same event?"""

from random import Random

from .changes import change_facts, reword, swap_roles
from .lexicon import TOWN
from .scenes import Scene, draw_scene, tell

_STYLES = ("active", "fronted", "passive")


def draw_mrpc(rng: Random, split: str, label: int) -> tuple[str, str]:
    """Two sentences; both classes are reworded and reordered, class 0 has facts changed or the roles exchanged as well."""
    scene = draw_scene(rng, TOWN, split != "train", details=rng.choice((0, 1)))
    first, second = rng.sample(_STYLES, 2)
    return tell(scene, first), tell(reword(scene if label else _altered(rng, scene), 0.7, rng), second)


def _altered(rng: Random, scene: Scene) -> Scene:
    if scene.action.kind == "person" and rng.random() < 0.3:
        return swap_roles(scene)
    return change_facts(rng, scene, rng.choice((1, 2)))
