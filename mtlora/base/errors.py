"""The errors that a user sees as one line; any other exception is a bug."""

from hydra.errors import CompactHydraException


class UserError(CompactHydraException):
    """A mistake in the input (configuration, data, files, network).

    The message is one line that names the mistake, its place and a remedy.
    Hydra prints exceptions of this family without a traceback and exits with code 1.
    """


class RunFailed(UserError):
    """Training cannot continue, for example after a loss that is not finite. The record keeps the message as the reason."""


class CohortUnsupported(Exception):
    """These runs cannot train in lock-step, but each can train alone. The message gives the reason."""
