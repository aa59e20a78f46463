"""MRPC in miniature: do two sentences of a town chronicle report the same event?"""

from random import Random

from mtlora.tasks.builtin.changes import change_fact, reword
from mtlora.tasks.builtin.lexicon import TOWN
from mtlora.tasks.builtin.scenes import draw_scene, tell

_STYLES = ("active", "fronted", "passive")


def draw_mrpc(rng: Random, split: str, label: int) -> tuple[str, str]:
    """Two sentences; both classes are reworded and reordered, class 0 also has one fact changed."""
    scene = draw_scene(rng, TOWN, split != "train", details=1)
    other = reword(scene if label else change_fact(rng, change_fact(rng, scene)), 0.6, rng)
    first, second = rng.sample(_STYLES, 2)
    return tell(scene, first), tell(other, second)
