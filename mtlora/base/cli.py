"""The command line of every command: a user's mistake prints one line, only a bug prints a traceback."""

import argparse
import errno
import io
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn, TextIO

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import CompactHydraException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from mtlora.base.errors import UserError, did_you_mean
from mtlora.base.paths import CONF

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"  # the user's value: `run` sets the variable, too
PATHS = ("data.root", "model.path", "results")  # keys of a configuration whose values are paths
INTERRUPTED = "interrupted: the same command goes on where it stopped"
# The variables of the Makefile, and what they are in a `python -m mtlora...` command.
MAKE = {"TASKS": "task", "METHODS": "transform", "SEEDS": "seed", "PROFILE": "profile", "PROTOCOL": "protocol"}
MAKE |= {"JOBS": "--jobs", "LAUNCHER": "--launcher", "RUNS": "--runs"}
SCHEMA = "run_schema"  # the name under which `mtlora.config.schema` stores the schema of a run
TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}  # in OmegaConf's messages
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
        options = error.options or ["nothing"]
        near = did_you_mean(option, options)
        return f"{group}={option} is not known: choose one of {', '.join(options)}{near}"
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    text = str(error)
    if text.startswith(NUMBER_FOR_GROUP):
        return f"{_number_for_group()}: a group takes the name of one of its options, for example rank=r8"
    if isinstance(error, CompactHydraException) and error.__cause__ is not None:
        text += ": " + str(error.__cause__).split("\n")[0]
    if text.startswith("Could not override") and (match := re.search(r"'(.*?)'", text)):
        return unknown_key(match[1])
    if match := re.search(
        r"Error merging override (\S+?)=.*?: Value '(.*)' of type '.*' could not be converted to (\w+)", text
    ):
        key, value, kind = match.groups()
        return f"{both_forms(key, value)}: {value} is not {TYPES.get(kind, kind)}"
    return "; ".join(part.strip() for part in text.splitlines() if part.strip())


def unknown_key(key: str) -> str:
    """Return the line about a key that does not exist, with the key that was probably meant."""
    if key.startswith("tune."):
        return f"{key} belongs to mtlora.tune (make tune SUITE=...): leave it out here"
    if key in MAKE:
        return f"{key} is a variable of make: in this command it is {MAKE[key]}="
    known = [*_known_keys(), *(path.name for path in CONF.iterdir() if path.is_dir())]
    near = did_you_mean(key, known) or ": check the spelling (python -m mtlora.train --help lists the keys)"
    return f"{key} is not a known key or group{near}"


def both_forms(key: str, value: object) -> str:
    """Return an argument as it is written in a command and, where it has one, as a variable of make."""
    separator = " " if key.startswith("--") else "="
    variable = next((name for name, own in MAKE.items() if own == key), None)
    return f"{key}{separator}{value}" + (f" ({variable}={value} of make)" if variable else "")


def _known_keys() -> list[str]:
    """Return every key of a run's configuration, such as `train.epochs`."""
    store = ConfigStore.instance()
    if f"{SCHEMA}.yaml" not in store.list(""):
        return []  # a command that composes no run

    def below(node: DictConfig, prefix: str = "") -> list[str]:
        keys = []
        for name in map(str, node):
            keys.append(f"{prefix}{name}")
            value = None if OmegaConf.is_missing(node, name) else node._get_node(name)
            if isinstance(value, DictConfig) and not value._is_none():
                keys += below(value, f"{prefix}{name}.")
        return keys

    return below(store.load(f"{SCHEMA}.yaml").node)


def _unreadable(override: str) -> str:
    """Describe a command-line argument that Hydra's grammar does not take."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override} is not of the form key=value (python -m mtlora.train --help lists the keys)"
    return f"{override}: this value needs quotes: write {shlex.quote(f'{key}={quoted(value)}')}"


def _number_for_group() -> str:
    """Return the command-line argument that sets a group to a number."""
    numbers = (a for a in sys.argv[1:] if re.fullmatch(r"\w+=[-+.\w,]*", a) and not re.search(r"=[a-zA-Z]", a))
    return next((a for a in numbers if (CONF / a.split("=")[0]).is_dir()), "a group's value is a number")


def quoted(value: str) -> str:
    """Return a value in the quotes of Hydra's grammar, which takes it as it is."""
    return str(QuotedString(value, Quote.double).with_quotes())


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
        """Raise a UserError instead of printing the usage."""
        raise UserError(f"{message} ({self.prog} --help shows what is possible)")


def experiment_parser(module: str, description: str) -> Parser:
    """Return a parser for EXPERIMENT and its overrides, the arguments of every command about an experiment."""
    parser = Parser(prog=f"python -m {module}", description=description)
    parser.add_argument("experiment", help="name of a file in experiments/, such as glue")
    parser.add_argument("overrides", nargs="*", help="overrides, as for mtlora.train -m")
    return parser


def jobs(text: str) -> int:
    """Read the value of `--jobs`.

    Raises:
        UserError: it is not a whole number of at least 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{both_forms('--jobs', text)}: it must be a whole number of at least 1")
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
