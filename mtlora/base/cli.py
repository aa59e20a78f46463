"""The command line of every command: a user's mistake prints one line, only a bug prints a traceback."""

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

from hydra.errors import CompactHydraException, MissingConfigException

from mtlora.base.errors import UserError
from mtlora.base.paths import CONF

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"  # the user's value: `run` sets the variable, too
INTERRUPTED = "interrupted: the same command goes on where it stopped"
NUMBER_FOR_GROUP = "Config group override must be a string"  # the ValueError that Hydra raises for `rank=8`


def one_line(error: BaseException) -> str:
    """Describe an error in one line: the mistake and its remedy."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        if group.startswith("recipe"):
            others = sorted(path.parent.name for path in (CONF / "recipe").glob(f"*/{option}.yaml"))
            known = f" (models with a recipe for {option}: {', '.join(others)})" if others else ""
            return (
                f"there is no recipe for this model and task: write conf/{group}/{option}.yaml, with its source{known}"
            )
        return f"{group}={option} is not known: choose one of {', '.join(error.options or ['nothing'])}"
    text = str(error)
    if text.startswith(NUMBER_FOR_GROUP):
        return f"{_number_for_group()}: a group takes the name of one of its options, for example rank=r8"
    if isinstance(error, CompactHydraException) and error.__cause__ is not None:
        text += ": " + str(error.__cause__).split("\n")[0]
    if text.startswith("Could not override") and (match := re.search(r"'(.*?)'", text)):
        return (
            f"{match[1]} is not a known key or group: check the spelling (python -m mtlora.train --help lists the keys)"
        )
    return "; ".join(part.strip() for part in text.splitlines() if part.strip())


def _number_for_group() -> str:
    """Return the command-line argument that sets a group to a number."""
    numbers = (a for a in sys.argv[1:] if re.fullmatch(r"\w+=[-+.\w,]*", a) and not re.search(r"=[a-zA-Z]", a))
    return next((a for a in numbers if (CONF / a.split("=")[0]).is_dir()), "a group's value is a number")


def configure_logging() -> None:
    """Log the messages of this package to stderr, and hide warnings of libraries that do not concern users."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mtlora").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*setting fan_in_fan_out to True")  # expected for GPT-2
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, like every other mistake of a user."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the usage."""
        raise UserError(f"{message} ({self.prog} --help shows what is possible)")


def experiment_parser(module: str, description: str) -> Parser:
    """Return a parser for EXPERIMENT and its overrides, the arguments of every command about an experiment."""
    parser = Parser(prog=f"python -m {module}", description=description)
    parser.add_argument("experiment", help="name of a file in experiments/, such as glue")
    parser.add_argument("overrides", nargs="*", help="overrides, as for mtlora.train -m")
    return parser


def run(main: Callable[[], None], hydra_main: bool = False) -> None:
    """Call an entry point; report a user's mistake as one line on stderr with exit code 1.

    HYDRA_FULL_ERROR=1 keeps the traceback. A `hydra.main` function prints several lines itself unless this variable makes it
    raise, so it is set for such a function.
    """
    if hydra_main:
        os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
        fail(
            UserError(
                f"hydra/launcher={extra} needs packages: .venv/bin/pip install -c constraints.txt -e '.[{extra}]'"
            )
        )
    except (CompactHydraException, ValueError) as error:
        mistake = isinstance(error, CompactHydraException) or str(error).startswith(NUMBER_FOR_GROUP)
        if not mistake:
            raise
        fail(error)


def fail(error: Exception) -> NoReturn:
    """Print a user's mistake as one line on stderr and exit with code 1."""
    if WANTS_TRACEBACK:
        raise error
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(1)
