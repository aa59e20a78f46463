"""The errors that a user sees as one line; any other exception is a bug."""

from collections.abc import Iterable
from difflib import get_close_matches

from hydra.errors import CompactHydraException


class UserError(CompactHydraException):
    """A mistake in the input (configuration, data, files, network).

    The message is one line that names the mistake, its place and a remedy.
    Hydra prints exceptions of this family without a traceback and exits with code 1.
    """


class RunFailed(UserError):
    """Training cannot continue, for example after a loss that is not finite. The record keeps the message as the reason."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the known word that is nearest to a mistyped one, for a message: ` (did you mean rte?)`, or nothing."""
    words = list(known)
    lower = word.lower()
    longer = [name for name in words if name.startswith(lower)] if lower else []
    near = longer if len(longer) == 1 else get_close_matches(lower, words, n=1, cutoff=0.75)
    return f" (did you mean {near[0]}?)" if near else ""


class CohortUnsupported(Exception):
    """These runs cannot train in lock-step, but each can train alone. The message gives the reason."""
