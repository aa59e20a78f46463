"""The errors that a user sees as one line; any other exception is a bug."""

from collections.abc import Iterable
from difflib import get_close_matches

from hydra.errors import CompactHydraException

CLOSE = 0.75  # the least similarity of a word to the one that was probably meant
MOST_NEAR = 3  # more words are no hint


class UserError(CompactHydraException):
    """A mistake in the input (configuration, data, files, network).

    The message is one line that names the mistake, its place and a remedy.
    Hydra prints exceptions of this family without a traceback and exits with code 1.
    """


class RunFailed(UserError):
    """Training cannot continue, for example after a loss that is not finite. The record keeps the message as the reason."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the known words that are nearest to a mistyped one, for a message: ` (did you mean rte?)`, or nothing.

    A key with dots is compared by its last part: `train.lr` with the keys of `train`, but `train.alpha` is `adapter.alpha`.
    """
    near = list(dict.fromkeys(_nearest(word.lower(), list(known))))
    return f" (did you mean {' or '.join(near)}?)" if 0 < len(near) <= MOST_NEAR else ""


def _nearest(word: str, known: list[str]) -> list[str]:
    """Return what the first rule finds that finds anything."""
    group, _, last = word.rpartition(".")
    if not last:
        return []
    own = [name for name in known if name.rpartition(".")[0] == group]
    same = [name for name in known if _last(name) == last]  # of another group
    level = [name for name in known if name.count(".") == word.count(".")]
    return (
        [name for name in same if name.endswith(f".{word}")]
        or get_close_matches(word, same, n=1, cutoff=0.9)
        or same
        or [name for name in own if _initials(name) == last]
        or [name for name in own if _last(name).startswith(last)]
        or _close(last, own)
        or get_close_matches(word, level, n=1, cutoff=CLOSE)
        or [name for name in known if _initials(name) == last]
        or ([] if group in known else _close(last, known))
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _initials(name: str) -> str:
    """Return the usual short form of a key: `lr` for `train.learning_rate`."""
    return "".join(part[:1] for part in _last(name).split("_"))


def _close(last: str, known: list[str]) -> list[str]:
    """Return the names whose last part is the one most similar to `last`."""
    near = get_close_matches(last, [_last(name) for name in known], n=1, cutoff=CLOSE)
    return [name for name in known if _last(name) in near]


class CohortUnsupported(Exception):
    """These runs cannot train in lock-step, but each can train alone. The message gives the reason."""
