"""The check that a command's packages are installed: `pip install mtlora` alone brings only those of the adapter.

It imports nothing but the standard library, because it runs before everything else.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires


def is_command() -> bool:
    """Tell whether Python is locating a module of this package to run it, as `python -m mtlora.train`."""
    # `-m` stands for the module in `sys.argv` until it is found.
    return sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].startswith("mtlora.")


def absent_packages(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed; none if this package itself is not installed."""
    try:
        stated = [re.match(rf"([\w.-]+).*\bextra == .{extra}\b", line) for line in requires("mtlora") or ()]
    except PackageNotFoundError:
        return []
    return [match[1] for match in stated if match and not _is_installed(match[1])]


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def require_harness() -> None:
    """End the process with one line if a package of the extra `harness` is not installed."""
    if absent := absent_packages("harness"):
        sys.exit(f"error: this command needs {', '.join(absent)}: pip install 'mtlora[harness]'")
