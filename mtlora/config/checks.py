"""Turn a composed Hydra configuration into a checked `RunConfig`; every mistake is an error of one line."""

import math
import os
import re
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtlora.base.errors import UserError, did_you_mean
from mtlora.base.messages import as_typed, misfit, unknown_key
from mtlora.config.metrics import METRICS, metrics_for
from mtlora.config.schema import STRUCTURES, AdapterConfig, LocalFile, ModelConfig, RunConfig, TaskConfig, TrainConfig

TEST_PARTS = ("test", "test_A", "test_S", "test_U")  # the parts of a test split that a generation task may be scored on
SECONDS_OF_A_YEAR = 365 * 24 * 3600.0


def to_run_config(composed: Any) -> RunConfig:
    """Turn a composed Hydra configuration into a checked `RunConfig`.

    Raises:
        UserError: a mandatory value is missing or a value is out of range.
    """
    if unknown := _unknown_keys(composed, RunConfig):
        raise UserError(unknown_key(unknown[0]))
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(
            f"no value for {', '.join(missing)}: set it in the YAML file under conf/, or on the command line"
        )
    config: RunConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    type_local_files(config.task)
    _expand_paths(config)
    _replace_infinity(config.train)
    validate(config)
    return config


def _expand_paths(config: RunConfig) -> None:
    """Replace `~` in the paths, in place, because a shell does so only at the start of a word, not in `data.root=~/glue`."""
    for node, name, key in (
        (config.data, "root", "data.root"),
        (config.model, "path", "model.path"),
        (config, "results", "results"),
    ):
        value = getattr(node, name)
        if value is None:
            continue
        if not value.strip() or "\0" in value:
            raise UserError(f"{key}={value!r} is no path: name a folder")
        expanded = os.path.expanduser(value)
        if expanded.startswith("~"):
            raise UserError(
                f"{key}={value}: there is no such user: name the folder in full, or ./{value} if it is here"
            )
        setattr(node, name, expanded)


def _replace_infinity(train: TrainConfig) -> None:
    """Write the two settings for which infinity is natural as a finite number, in place, because JSON has no infinity."""
    if train.max_grad_norm == math.inf:
        train.max_grad_norm = 0.0  # no clipping
    train.checkpoint_seconds = min(train.checkpoint_seconds, SECONDS_OF_A_YEAR)


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
            raise UserError(
                f"task.local.{split} of {task.name} is malformed: {misfit(error)}: repair its YAML file"
            ) from None


def validate(config: RunConfig) -> None:
    """Check each field by its rule, and the combinations of values.

    Raises:
        UserError: a value is not allowed; the message has the key, the value and the allowed values.
    """
    _check_rules(config)
    _check_finite(asdict(config))
    if math.isinf(config.learning_rate):
        raise UserError("train.learning_rate times train.lr_multiplier and adapter.rate is infinite: lower them")
    if config.targets not in config.model.target_sets:
        known = ", ".join(config.model.target_sets)
        raise UserError(
            f"targets={config.targets} is not a target set of model {config.model.name}: choose one of {known}"
        )
    _check_model(config.model)
    _check_adapter(config.adapter)
    _check_quantization(config.model, config.adapter)
    _check_ratios(config)
    if config.data.source != "local" and config.data.root is not None:
        raise UserError(
            f"data.root={config.data.root} is not read with data.source={config.data.source}: add data.source=local"
        )
    _check_metrics(config.task)


# source -> the keys that it needs
MODEL_KEYS = {"hub": ("hub", "revision"), "package": ("package", "weights_sha256"), "random": ("architecture",)}


def _check_model(model: ModelConfig) -> None:
    """Check that a model says where its weights come from."""
    if model.path is not None:
        return
    if missing := [key for key in MODEL_KEYS[model.source] if not getattr(model, key)]:
        raise UserError(
            f"model {model.name} has source: {model.source}, which needs {' and '.join(missing)}: add them to "
            f"conf/model/{model.name}.yaml, or give model.path=DIR"
        )
    if model.source == "hub" and not re.fullmatch("[0-9a-f]{40}", str(model.revision)):
        raise UserError(
            f"model.revision={model.revision} may move to other weights: name a commit (40 hexadecimal digits)"
        )


def _check_quantization(model: ModelConfig, a: AdapterConfig) -> None:
    """Check that there are weights to quantise, and that they stay frozen."""
    if model.quantization is None:
        return
    given = f"model.quantization={model.quantization}"
    if a.full:
        raise UserError(f"{given} needs frozen weights, but transform={a.method} trains them: leave one of the two out")
    if model.path is None and (model.source == "random" or model.gguf):
        kind = "random" if model.source == "random" else "read from a quantised GGUF file"
        raise UserError(
            f"{given} needs pretrained weights in full precision, but those of model {model.name} are {kind}: choose another "
            "model, or give model.path=DIR"
        )


def _check_adapter(a: AdapterConfig) -> None:
    """Check that the values of a method fit each other."""
    declared = STRUCTURES.get(a.method, "none")
    if a.structure != declared:
        raise UserError(
            f"adapter.structure={a.structure} is not the structure of transform={a.method}: name a method that has it"
        )
    if a.like is not None and a.like not in STRUCTURES.values():
        raise UserError(
            f"adapter.like={a.like} is not a structure: choose one of {', '.join(sorted(set(STRUCTURES.values())))}"
        )
    if a.full and a.peft:
        raise UserError(
            "adapter.full=true trains the whole model, without a method of adapter.peft: keep one of the two"
        )
    own = (a.structure, a.init_weights, a.like, a.train_t, a.use_rslora, a.fused_transform)
    if (a.peft or a.full) and own != ("none", "official", None, True, False, "auto"):
        raise UserError(
            f"transform={a.method} is not MTLoRA: structure, init_weights, like, train_t, use_rslora and fused_transform of "
            "`adapter` do not apply to it"
        )
    if a.structure == "none" and not a.train_t:
        raise UserError("adapter.train_t=false needs a structure with a T")
    if a.init_weights != "zero_t":
        return
    from mtlora.adapter.transforms import STRUCTURES as MATRICES  # imports torch, which plans must not load

    if not a.train_t or a.structure == "none" or not MATRICES[a.structure].trains_from_zero:
        raise UserError(
            f"adapter.init_weights=zero_t cannot be used with transform={a.method}, whose T is fixed, or at that start is not 0 "
            "or gets no gradient: choose official or identity"
        )
    if a.step == "matched":
        raise UserError(
            "adapter.init_weights=zero_t has no step to match, because T starts at 0: set adapter.step=published"
        )


def _check_ratios(config: RunConfig) -> None:
    """Check that the matrices whose rate a ratio changes exist and train."""
    a, t = config.adapter, config.train
    if t.lr_ratio_t != 1 and (a.structure == "none" or not a.train_t):
        raise UserError(f"train.lr_ratio_t={t.lr_ratio_t:g} needs a T that trains, which transform={a.method} has not")
    if t.lr_ratio_b != 1 and (a.peft or a.full):
        raise UserError(f"train.lr_ratio_b={t.lr_ratio_b:g} needs the B of LoRA or MTLoRA, not transform={a.method}")


def _check_rules(node: Any, prefix: str = "") -> None:
    """Check the fields of a dataclass, and of the dataclasses inside it, by their rules."""
    for f in fields(node):
        key, value, rule = f"{prefix}{f.name}", getattr(node, f.name), f.metadata.get("rule")
        if rule is not None and value is not None and not rule.holds(value):
            raise UserError(f"{as_typed(key, value)} {rule.otherwise}")
        below = (
            {f"{key}.{name}.": item for name, item in value.items()} if isinstance(value, dict) else {f"{key}.": value}
        )
        for path, item in below.items():
            if is_dataclass(item):
                _check_rules(item, path)


def _check_finite(value: Any, key: str = "") -> None:
    """Check that no number is infinite or NaN, which neither JSON nor a run's identity can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}={value} is not a finite number: give one")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        _check_finite(item, f"{key}.{name}".lstrip("."))


def _check_metrics(task: TaskConfig) -> None:
    classes = f" with {len(task.labels)} classes" if task.kind == "classification" else ""
    fitting = metrics_for(task.kind, len(task.labels))
    for split, names in task.metrics.items():
        if wrong := [name for name in names if name not in fitting]:
            problem = f"does not fit a {task.kind} task{classes}" if wrong[0] in METRICS else "is not known"
            near = did_you_mean(wrong[0], fitting)
            raise UserError(
                f"task.metrics of {task.name}: {wrong[0]} {problem}: choose from {', '.join(fitting)}{near}"
            )
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
