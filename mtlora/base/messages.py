"""The wording of a user's mistakes: one line that names arguments and commands as the user writes them.

For a user who typed `make reproduce-glue TASKS=rte`, an argument is `TASKS=rte` and a command `make tune SUITE=glue`; for others
they are `task=rte` and `python -m mtlora.tune glue`.
"""

import os
import re
import shlex
import sys
from dataclasses import fields, is_dataclass

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import CompactHydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from mtlora.base.errors import did_you_mean
from mtlora.base.paths import CONF

# The variables of the Makefile, and what they are in a `python -m mtlora...` command.
MAKE = {"TASKS": "task", "METHODS": "transform", "SEEDS": "seed", "PROFILE": "profile", "PROTOCOL": "protocol"}
MAKE |= {"JOBS": "--jobs", "LAUNCHER": "--launcher", "RUNS": "--runs"}
BY_MAKE = "MTLORA_BY_MAKE"  # the environment variable that our Makefile sets for its commands
MODULES = {"download": "plan.download"}  # targets of the Makefile that are not called as their module
SCHEMA = "run_schema"  # the name under which `mtlora.config.schema` stores the schema of a run
TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}  # in OmegaConf's messages
LISTED = ": check the spelling (python -m mtlora.train --help lists the keys)"
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
        return f"{as_typed(group, option)} is not known: choose one of {', '.join(options)}{near}"
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    text = str(error)
    if text.startswith(NUMBER_FOR_GROUP):
        return f"{_number_for_group()}: a group takes the name of one of its options, for example rank=r8"
    if isinstance(error, CompactHydraException) and error.__cause__ is not None:
        text += ": " + str(error.__cause__).split("\n")[0]
    if match := re.match(r"Ambiguous value for argument '(.*?)'", text):
        return f"{match[1]} names several values, which is a sweep: add -m, or give one value"
    if match := re.match(r"In '(.+?)': ConfigKeyError .*\n.*\n +full_key: (\S+)", text):
        return f"conf/{match[1]}.yaml: {unknown_key(match[2])}"
    if text.startswith("Could not override") and (match := re.search(r"'(.*?)'", text)):
        return unknown_key(match[1])
    if match := re.search(
        r"Error merging override (\S+?)=.*?: Value '(.*)' of type '.*' could not be converted to (\w+)", text
    ):
        key, value, kind = match.groups()
        several = (
            f" (several: {as_typed(key, '0,1')} or {shlex.quote(as_typed(key, 'range(0,5)'))})" if key == "seed" else ""
        )
        return f"{as_typed(key, value)}: {value} is not {TYPES.get(kind, kind)}{several}"
    return "; ".join(part.strip() for part in text.splitlines() if part.strip())


def unknown_key(key: str) -> str:
    """Return the line about a key that does not exist, with the key that was probably meant."""
    if key.startswith("tune."):
        return f"{key} belongs to `{command('tune')}`: leave it out here"
    if key in MAKE:
        return f"{key} is a variable of make: in this command it is {MAKE[key]}="
    meant = {own for name, own in MAKE.items() if key.upper() in (name, name.removesuffix("S")) and own[0] != "-"}
    near = f" (did you mean {meant.pop()}?)" if meant else did_you_mean(key, _known_keys(key))
    return f"{key} is not a known key or group{near or LISTED}"


def misfit(error: OmegaConfBaseException) -> str:
    """Describe, in one line, why a file does not fit its schema, with the key that was probably meant."""
    known = [f.name for f in fields(error.object_type)] if is_dataclass(error.object_type) else []
    near = did_you_mean(str(error.key), known) if isinstance(error, ConfigKeyError) else ""
    return str(error).split("\n")[0] + near


def as_typed(key: str, value: object) -> str:
    """Return an argument as the user writes it: `task=rte` or `--jobs 2`, for make `TASKS=rte` or `JOBS=2`."""
    if os.environ.get(BY_MAKE):
        return as_variable(f"{key}={value}")
    return f"{key}{' ' if key.startswith('--') else '='}{value}"


def command(target: str, experiment: str = "", *overrides: str) -> str:
    """Return the command of a target of the Makefile as the user writes it, also if it is about one experiment."""
    if os.environ.get(BY_MAKE):
        named = (
            [f"{target}-{experiment}"] if target == "reproduce" else [target, f"SUITE={experiment}" * bool(experiment)]
        )
        words = ["make", *named, *map(as_variable, overrides)]
    else:
        words = ["python", "-m", f"mtlora.{MODULES.get(target, target)}", experiment, *overrides]
    return shlex.join(filter(None, words))


def same_command(target: str) -> str:
    """Return the words for a command, where the experiment and the profile of the user's own command are not known."""
    return f"`{command(target)}` for the same experiment and profile"


def as_variable(override: str) -> str:
    """Return an override as an argument of make: `seed=0,1` becomes `SEEDS=0,1`."""
    key, _, value = override.partition("=")
    return f"{next((name for name, own in MAKE.items() if own == key), key)}={value}"


def _known_keys(key: str) -> list[str]:
    """Return every key that a run's configuration has, such as `train.epochs`, and its groups; of Hydra, its own keys."""
    if key.startswith("hydra"):
        groups = [f"hydra/{path.name}" for path in (CONF / "hydra").iterdir() if path.is_dir()]
        return [*groups, "hydra/sweeper", *_below(OmegaConf.structured(HydraConf), "hydra.")]
    groups = [path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"]
    store = ConfigStore.instance()
    if f"{SCHEMA}.yaml" not in store.list(""):  # a command that composes no run
        return groups
    return list(dict.fromkeys([*_below(store.load(f"{SCHEMA}.yaml").node), *groups]))


def _below(node: DictConfig, prefix: str = "") -> list[str]:
    """Return every key below a node."""
    keys = []
    for name in map(str, node):
        keys.append(f"{prefix}{name}")
        value = None if OmegaConf.is_missing(node, name) else node._get_node(name)
        if isinstance(value, DictConfig) and not value._is_none():
            keys += _below(value, f"{prefix}{name}.")
    return keys


def _unreadable(override: str) -> str:
    """Describe a command-line argument that Hydra's grammar does not take."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override} is not of the form key=value (python -m mtlora.train --help lists the keys)"
    values = [part for part in value.split(",") if part.strip()]
    if not set(value) & set("\"'()[]{}") and len(values) < value.count(",") + 1:
        return f"{as_typed(key, value)}: a comma too many: write {as_typed(key, ','.join(values))}"
    return f"{as_typed(key, value)}: this value needs quotes: write {shlex.quote(as_typed(key, quoted(value)))}"


def _number_for_group() -> str:
    """Return the command-line argument that sets a group to a number."""
    numbers = (a for a in sys.argv[1:] if re.fullmatch(r"\w+=[-+.\w,]*", a) and not re.search(r"=[a-zA-Z]", a))
    found = (a.split("=") for a in numbers if (CONF / a.split("=")[0]).is_dir())
    return next((as_typed(key, value) for key, value in found), "a group's value is a number")


def quoted(value: str) -> str:
    """Return a value in the quotes of Hydra's grammar, which takes it as it is."""
    return str(QuotedString(value, Quote.double).with_quotes())
