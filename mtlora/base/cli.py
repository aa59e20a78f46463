"""The common part of all command lines: a user's mistake prints one line, only a bug prints a traceback."""

import argparse
import errno
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn, TextIO

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException

from mtlora.base.errors import UserError, did_you_mean
from mtlora.base.extras import needs
from mtlora.base.files import visible_files
from mtlora.base.messages import NUMBER_FOR_GROUP, as_typed, one_line, quoted
from mtlora.base.paths import EXPERIMENTS

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"  # the user's value: `run` sets the variable, too
PATHS = ("data.root", "model.path", "results")  # keys of a configuration whose values are paths
INTERRUPTED = "interrupted: run the same command again to continue"


def path_override(argument: str) -> str:
    """Return a command-line argument; the value of a path is quoted if Hydra's grammar would not take it as one path.

    So `data.root=~/it's (here)` needs quotes for the shell only. A sweep over several paths stays a sweep.
    """
    key, _, value = argument.partition("=")
    if key.lstrip("+") not in PATHS or not value:
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
        sweep = override.is_sweep_override()
        as_it_is = not os.path.exists(value) if sweep else isinstance(override.value(), str | None)
    except HydraException:
        as_it_is = False
    return argument if as_it_is else f"{key}={quoted(value)}"


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what `sys.stderr` is at the time: a progress bar replaces it, to print lines above itself."""

    @property
    def stream(self) -> TextIO:
        """The standard error stream."""
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


def configure_logging() -> None:
    """Log the messages of this package to stderr, and hide warnings of libraries that do not concern users."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Stderr()])
    logging.getLogger("mtlora").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*setting fan_in_fan_out to True")  # expected for GPT-2
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, like every other mistake of a user."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the usage; what is missing or mistyped is named with what may stand there."""
        if match := re.match("the following arguments are required: (.+)", message):
            message = "; ".join(filter(None, map(self._missing, match[1].split(", "))))
        elif match := re.match("unrecognized arguments: (--[^ =]+)", message):
            message = f"{match[1]} is not an option{did_you_mean(match[1], self._option_string_actions)}"
        raise UserError(f"{message} ({self.prog} --help shows what is possible)")

    def _missing(self, name: str) -> str:
        """Describe a missing argument; an empty list of others is no mistake."""
        action = next(a for a in self._actions if name in (a.metavar, a.dest, *a.option_strings))
        if action.nargs == "*":
            return ""
        shown = name if action.option_strings else name.upper()
        return f"{shown} is missing: {action.help or 'one of ' + ', '.join(action.choices or ())}"


def experiment_parser(module: str, description: str, *more: str) -> Parser:
    """Return a parser for EXPERIMENT and its overrides, the arguments of every command about an experiment.

    Args:
        module: the command's module.
        description: of the command.
        more: names that the command takes besides those of the files in experiments/.
    """
    parser = Parser(prog=f"python -m {module}", description=description)
    names = [*more, *(path.stem for path in visible_files(EXPERIMENTS, "*.yaml"))]
    parser.add_argument("experiment", help=f"one of {', '.join(names)}")
    parser.add_argument("overrides", nargs="*", help="such as task=rte,mrpc seed=0,1; as for mtlora.train -m")
    return parser


def jobs(text: str) -> int:
    """Read the value of `--jobs`.

    Raises:
        UserError: it is not a whole number of at least 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{as_typed('--jobs', text)}: it must be a whole number of at least 1")
    return int(text)


def run(main: Callable[[], None], hydra_main: bool = False) -> None:
    """Call an entry point; report a user's mistake as one line on stderr with exit code 1.

    HYDRA_FULL_ERROR=1 keeps the traceback. A `hydra.main` function prints several lines itself unless this variable makes it
    raise, so it is set for such a function.
    """
    if hydra_main:
        os.environ["HYDRA_FULL_ERROR"] = "1"
    for stream in (sys.stdout, sys.stderr):  # the letters of a table or a context in any encoding: "±" becomes "\\xb1"
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            sys.argv[1:] = map(path_override, sys.argv[1:])
            main()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where its failure has a message
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        _discard_output()
        sys.exit(141)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    except SystemExit as stop:
        if stop.code == 143:  # SIGTERM
            print(INTERRUPTED, file=sys.stderr)
        raise
    except RuntimeError as error:
        if not (plugin := re.search(r"Unknown plugin class : 'hydra_plugins\.hydra_(\w+?)_launcher", str(error))):
            raise
        extra = {"submitit": "slurm"}.get(plugin[1], plugin[1])
        fail(UserError(needs(f"hydra/launcher={extra}", f"the package hydra-{plugin[1]}-launcher", extra)))
    except (CompactHydraException, ValueError) as error:
        mistake = isinstance(error, CompactHydraException) or str(error).startswith(NUMBER_FOR_GROUP)
        if not mistake:
            raise
        fail(error)
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        _discard_output()
        fail(UserError(f"cannot write the output ({error.strerror}): redirect it to another place"))


def _discard_output() -> None:
    """Let the interpreter's last flush of the standard output succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(error: Exception) -> NoReturn:
    """Print a user's mistake as one line on stderr and exit with code 1."""
    if WANTS_TRACEBACK:
        raise error
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(1)
