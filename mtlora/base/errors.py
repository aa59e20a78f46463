"""The errors that a user can cause or should see as one line; any other exception is a bug."""

from hydra.errors import CompactHydraException


class UserError(CompactHydraException):
    """A mistake in the input (configuration, data, files, network).

    The message is one line that names the mistake, its place and a remedy.
    Hydra prints exceptions of this family without a traceback and exits with code 1.
    """


class RunFailed(UserError):
    """Training cannot go on, as after a loss that is not finite. The record keeps the message as the reason."""


class CohortUnsupported(Exception):
    """These runs cannot train in lock-step; the message says why. Alone they can."""
