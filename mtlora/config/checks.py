"""Turn a composed Hydra configuration into a checked `RunConfig`; every mistake is an error of one line."""

from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtlora.base.errors import UserError
from mtlora.config.metrics import METRICS, metrics_for
from mtlora.config.schema import LocalFile, RunConfig, TaskConfig

TEST_PARTS = ("test", "test_A", "test_S", "test_U")  # the parts of a test split that a generation task may be scored on


def to_run_config(composed: Any) -> RunConfig:
    """Turn a composed Hydra configuration into a checked `RunConfig`.

    Raises:
        UserError: a mandatory value is missing or a value is out of range.
    """
    if unknown := _unknown_keys(composed, RunConfig):
        raise UserError(f"{unknown[0]} is not a known key: remove it; mtlora/config/schema.py has all keys")
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(
            f"no value for {', '.join(missing)}: set it in the YAML file under conf/, or on the command line"
        )
    config: RunConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    type_local_files(config.task)
    validate(config)
    return config


def type_local_files(task: TaskConfig) -> None:
    """Turn the items of `task.local` into `LocalFile`, in place.

    OmegaConf leaves the items of a list inside a dictionary as plain dictionaries: neither checked nor with defaults.

    Raises:
        UserError: an item has an unknown key, lacks one, or has a value of the wrong type.
    """
    schema = OmegaConf.structured(LocalFile)
    for split, items in task.local.items():
        try:
            task.local[split] = [OmegaConf.to_object(OmegaConf.merge(schema, item)) for item in items]  # type: ignore[misc]
        except OmegaConfBaseException as error:
            reason = str(error).split("\n")[0]
            raise UserError(f"task.local.{split} of {task.name} is malformed: {reason}: repair its YAML file") from None


def validate(config: RunConfig) -> None:
    """Check each field by its rule, and the combinations of values.

    Raises:
        UserError: a value is not allowed; the message has the key, the value and the allowed values.
    """
    _check_rules(config)
    if config.targets not in config.model.target_sets:
        known = ", ".join(config.model.target_sets)
        raise UserError(
            f"targets={config.targets} is not a target set of model {config.model.name}: choose one of {known}"
        )
    if config.adapter.init_weights == "zero_t":
        from mtlora.adapter.transforms import STRUCTURES  # imports torch, which plans must not load

        if config.adapter.structure == "none" or not STRUCTURES[config.adapter.structure].trains_from_zero:
            raise UserError(
                f"adapter.init_weights=zero_t cannot be used with structure {config.adapter.structure}: "
                "choose official or identity (T = 0 gets no gradient there, and T is fixed to I in LoRA)"
            )
    if config.data.source == "local" and config.data.root is None:
        raise UserError("data.source=local needs data.root=DIR, the folder that holds the suite's files")
    if config.data.source != "local" and config.data.root is not None:
        raise UserError(
            f"data.root={config.data.root} is not read with data.source={config.data.source}: add data.source=local"
        )
    _check_metrics(config.task)


def _check_rules(node: Any, prefix: str = "") -> None:
    """Check the fields of a dataclass, and of the dataclasses inside it, by their rules."""
    for f in fields(node):
        key, value, rule = f"{prefix}{f.name}", getattr(node, f.name), f.metadata.get("rule")
        if rule is not None and value is not None and not rule.holds(value):
            raise UserError(f"{key}={value} {rule.otherwise}")
        below = (
            {f"{key}.{name}.": item for name, item in value.items()} if isinstance(value, dict) else {f"{key}.": value}
        )
        for path, item in below.items():
            if is_dataclass(item):
                _check_rules(item, path)


def _check_metrics(task: TaskConfig) -> None:
    classes = f" with {len(task.labels)} classes" if task.kind == "classification" else ""
    fitting = metrics_for(task.kind, len(task.labels))
    for split, names in task.metrics.items():
        if wrong := [name for name in names if name not in fitting]:
            problem = f"does not fit a {task.kind} task{classes}" if wrong[0] in METRICS else "is not known"
            raise UserError(f"task.metrics of {task.name}: {wrong[0]} {problem}: choose from {', '.join(fitting)}")
        if task.kind == "generation" and split not in TEST_PARTS:
            raise UserError(f"task.metrics of {task.name}: {split} is not one of {', '.join(TEST_PARTS)}")


def _unknown_keys(node: Any, schema: type, prefix: str = "") -> list[str]:
    """List the keys that `+key=value` added to the composition although the schema has no such fields."""
    known = {f.name: f.type for f in fields(schema)}
    unknown = [f"{prefix}{key}" for key in node if key not in known]
    for key, kind in known.items():
        if isinstance(kind, type) and is_dataclass(kind):
            unknown += _unknown_keys(node[key], kind, f"{prefix}{key}.")
    return unknown
