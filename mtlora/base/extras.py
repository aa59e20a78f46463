"""The extras of this package: whether their packages are installed, and how to install them where it is installed.

`pip install mtlora` alone brings only the packages of the adapter. This module and `paths` import nothing but the standard
library, because they run before everything else.
"""

import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

from mtlora.base.paths import COPIES, REPOSITORY


def is_command() -> bool:
    """Tell whether Python is locating a module of this package to run it, as `python -m mtlora.train`."""
    # `-m` stands for the module in `sys.argv` until it is found.
    return sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].startswith("mtlora.")


def needs(what: str, packages: str, extra: str) -> str:
    """Return the line about `packages` that `what` needs and that are absent, with the command that installs their extra."""
    return f"{what} needs {packages}: {install(extra)}"


def install(extra: str) -> str:
    """Return the command that installs an extra: in a checkout the tested versions, else what the installed wheel asks for."""
    if COPIES.is_dir():
        return f"pip install 'mtlora[{extra}]'"
    there = "" if Path.cwd() == REPOSITORY else f"cd {shlex.quote(str(REPOSITORY))} && "
    pip = ".venv/bin/pip" if Path(sys.prefix) == REPOSITORY / ".venv" else "pip"
    return f"{there}{pip} install -c constraints.txt -e '.[{extra}]'"


def absent_packages(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed; none if this package itself is not installed."""
    return [package for package, own in _required() if own == extra and not _is_installed(package)]


def extra_with(module: str) -> str | None:
    """Return the extra that brings a module, whose package has the same name; None if none does."""
    return next((extra for package, extra in _required() if package.replace("-", "_") == module), None)


def _required() -> list[tuple[str, str]]:
    """Return the packages that the extras require, each with its extra."""
    try:
        stated = [re.match(r"([\w.-]+).*\bextra == .(\w+)", line) for line in requires("mtlora") or ()]
    except PackageNotFoundError:
        return []
    return [(match[1], match[2]) for match in stated if match]


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def require_harness() -> None:
    """End the process with one line if a package of the extra `harness` is not installed."""
    if absent := absent_packages("harness"):
        sys.exit(f"error: {needs('this command', ', '.join(absent), 'harness')}")
