"""The one error type for mistakes a user can make; everything else that is raised is a bug of ours."""

from hydra.errors import CompactHydraException


class UserError(CompactHydraException):
    """A mistake in the input (configuration, data, files, network), described in one line: what is wrong, where, what to do.

    Hydra prints exceptions of this family without a traceback and exits with code 1.
    """


class RunFailed(UserError):
    """Training cannot go on, as after a loss that is not finite; the message is the reason that the record keeps."""
