"""SST-2 in miniature: is a remark about a film or a book positive or negative?"""

from random import Random

from .lexicon import indefinite
from .scenes import is_held_out

_POSITIVE = (
    *("funny", "tender", "gripping", "clever", "charming", "moving", "fresh", "witty", "wise"),
    *("brilliant", "thrilling", "memorable", "superb", "delightful", "beautiful", "lively", "graceful", "honest"),
)
_NEGATIVE = (
    *("dull", "clumsy", "tedious", "shallow", "stale", "lifeless", "silly", "muddled", "cold"),
    *("awful", "boring", "forgettable", "poor", "annoying", "ugly", "crude", "noisy", "predictable"),
)
_ASPECTS = (
    *("plot", "story", "ending", "script", "soundtrack", "love story", "main character", "final scene", "villain"),
    *("first half", "supporting cast", "opening scene", "narrator", "hero", "second act", "title song", "dialogue"),
)
_WORKS = ("film", "comedy", "drama", "thriller", "documentary", "novel", "cartoon", "musical", "biography", "sequel")

# {same} and {same2} are of the sentiment of the label, {other} of the opposite one. All patterns have the combination by which
# the splits differ: {aspect} with {same} or {other}, which are at one position in their tables.
_PATTERNS = (
    "{a_same} {work} with {a_same2} {aspect}",
    "the {aspect} is {same} and the {aspect2} is {same2}",
    "one of the most {same} {work}s of the year, not least for its {aspect}",
    "{same} from beginning to end, with {a_same2} {aspect}",
    "the {aspect} is never {other}",
    "there is nothing {other} about the {aspect} of this {work}",
    "the {aspect} is not {other} at all, it is {same}",
    "although the {aspect} is {other}, the {work} is {same}",
    "the {aspect} may be {other}, but this is {a_same} {work}",
    "far from {other}, the {aspect} is {same} and {same2}",
)


def draw_sst2(rng: Random, split: str, label: int) -> tuple[str]:
    """A remark of the label's sentiment: plain, negated, or with a concession."""
    while True:
        same, aspect = rng.randrange(len(_POSITIVE)), rng.randrange(len(_ASPECTS))
        if is_held_out(same, aspect) == (split != "train"):
            break
    words, opposites = (_POSITIVE, _NEGATIVE) if label else (_NEGATIVE, _POSITIVE)
    same2 = rng.choice([word for word in words if word != words[same]])
    text = rng.choice(_PATTERNS).format(
        same=words[same],
        same2=same2,
        other=opposites[same],
        a_same=indefinite(words[same]),
        a_same2=indefinite(same2),
        aspect=_ASPECTS[aspect],
        aspect2=rng.choice([word for word in _ASPECTS if word != _ASPECTS[aspect]]),
        work=rng.choice(_WORKS),
    )
    return (text,)
