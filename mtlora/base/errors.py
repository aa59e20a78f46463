"""The errors that a user sees as one line; any other exception is a bug."""

from collections.abc import Iterable
from difflib import SequenceMatcher

from hydra.errors import CompactHydraException

CLOSE = 0.75  # the least similarity of a word to the one that was probably meant
INITIALS, PREFIX = 0.98, 0.95  # the similarity of the usual short forms: `lr` and `warmup`
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

    A key with dots is compared by its last part: first with the same one of another group, so `train.alpha` is `adapter.alpha`,
    then with similar ones of its own group, so `train.lr` is `train.learning_rate`, then with those of all groups.
    """
    ranks = {name: rank for name in known if (rank := _nearness(word.lower(), name)) is not None}
    nearest = max(ranks.values(), default=None)
    near = [name for name, rank in ranks.items() if rank == nearest]
    return f" (did you mean {' or '.join(near)}?)" if 0 < len(near) <= MOST_NEAR else ""


def _nearness(word: str, name: str) -> tuple[bool, float, float] | None:
    """Return whether two keys have the same last part, and how similar their groups and last parts are; None: not similar."""
    (group, _, last), (its_group, _, its_last) = word.rpartition("."), name.rpartition(".")
    if last == "".join(part[:1] for part in its_last.split("_")):
        similarity = INITIALS
    else:
        similarity = PREFIX if last and its_last.startswith(last) else SequenceMatcher(None, its_last, last).ratio()
    groups = SequenceMatcher(None, its_group, group).ratio()
    return (last == its_last, groups if groups >= CLOSE else 0, similarity) if similarity >= CLOSE else None


class CohortUnsupported(Exception):
    """These runs cannot train in lock-step, but each can train alone. The message gives the reason."""
