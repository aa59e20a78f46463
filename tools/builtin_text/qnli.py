"""QNLI in miniature: does the sentence answer the question?"""

from random import Random

from .changes import change_noun, drop, reword, set_details
from .lexicon import TOWN, plural
from .scenes import Scene, agent_phrase, draw_scene, sentence, tell, thing_phrase

_DETAIL_QUESTIONS = {"place": "where", "time": "when", "count": "how many"}


def draw_qnli(rng: Random, split: str, label: int) -> tuple[str, str]:
    """Question and sentence; in class 1 the answer is missing: the detail is left out, or the event is another one."""
    asked = rng.choice(("agent", "thing", *_DETAIL_QUESTIONS, *_DETAIL_QUESTIONS))
    scene = draw_scene(rng, TOWN, split != "train", details=rng.choice((0, 1)))
    if asked in _DETAIL_QUESTIONS:
        scene = set_details(rng, scene, [asked])
    question = ask(scene, asked)
    if label == 1:
        scene = _without_answer(rng, scene, asked)
    words = reword(scene, 0.2 if label else 0.5, rng)  # an answer is reworded more, so that overlap of words helps less
    return question, tell(words, rng.choice(("active", "active", "fronted", "passive")))


def _without_answer(rng: Random, scene: Scene, asked: str) -> Scene:
    if asked not in _DETAIL_QUESTIONS or rng.random() < 0.2:
        return change_noun(rng, change_noun(rng, scene, "thing"), "agent")
    silent = drop(scene, [asked])
    return set_details(rng, silent, [rng.choice(("adjective", "manner"))]) if rng.random() < 0.5 else silent


def ask(scene: Scene, asked: str) -> str:
    """The question for one part of the scene."""
    agent, verb = agent_phrase(scene), scene.action.verb
    place = f" {scene.place.word}" if scene.place else ""
    if asked == "agent":
        return sentence(f"who {verb.past} {thing_phrase(scene)}{place}", "?")
    if asked == "thing":
        pronoun = "whom" if scene.action.kind == "person" else "what"
        return sentence(f"{pronoun} did {agent} {verb.base}{place}", "?")
    if asked == "count":
        return sentence(f"how many {plural(scene.thing.word)} did {agent} {verb.base}{place}", "?")
    thing = thing_phrase(scene)
    return sentence(f"{_DETAIL_QUESTIONS[asked]} did {agent} {verb.base} {thing}", "?")
