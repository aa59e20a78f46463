"""From a composed Hydra configuration to a checked `RunConfig`: what types cannot say is said here, one line a mistake."""

from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtlora.base.errors import UserError
from mtlora.base.paths import CONF
from mtlora.config.metrics import METRICS
from mtlora.config.schema import LocalFile, RunConfig, TaskConfig, lookup

TEST_PARTS = ("test", "test_A", "test_S", "test_U")  # what a generation task is scored on

CHOICES: dict[str, tuple[str, ...]] = {
    "task.kind": ("classification", "regression", "generation"),
    "task.scoring": ("triples", "e2e"),
    "data.source": ("hub", "local", "builtin"),
    "data.padding": ("longest", "max_length"),
    "data.order": ("length", "random"),
    "model.source": ("hub", "package", "random"),
    "adapter.structure": ("none", *sorted({path.stem for path in (CONF / "transform").glob("*.yaml")} - {"lora"})),
    "adapter.init_weights": ("official", "identity", "zero_t"),
    "adapter.fused_transform": ("auto", "block", "joint"),
    "train.precision": ("fp32", "bf16"),
    "tracking.name": ("none", "wandb"),
    "tracking.mode": ("offline", "online"),
    "compute.device": ("auto", "cpu", "cuda"),
    "compute.cpu_gemm": ("auto", "stock"),
}
AT_LEAST: dict[str, float] = {
    "adapter.r": 1,
    "data.max_length": 8,
    "train.epochs": 1,
    "train.batch_size": 1,
    "train.eval_batch_size": 1,
    "train.accumulation": 1,
    "train.limit_examples": 1,
    "train.limit_validation": 1,
    "train.weight_decay": 0,
    "train.warmup_ratio": 0,
    "train.warmup_steps": 0,
    "train.max_grad_norm": 0,
    "train.log_every": 1,
    "train.checkpoint_seconds": 0,
    "decode.beams": 1,
    "decode.length_penalty": 0,
    "decode.no_repeat_ngram": 0,
    "decode.max_new_tokens": 1,
    "decode.max_context": 1,
    "decode.batch_size": 1,
    "decode.limit_contexts": 1,
    "compute.threads": 0,
    "seed": 0,
}
POSITIVE = ("adapter.alpha", "train.learning_rate", "train.eps")
BELOW_ONE = ("adapter.dropout", "train.label_smoothing", "train.warmup_ratio", "train.beta1", "train.beta2")


def to_run_config(composed: Any) -> RunConfig:
    """Turn a composed Hydra configuration into a checked `RunConfig`.

    Raises:
        UserError: a mandatory value is missing or a value is out of range.
    """
    if unknown := _unknown_keys(composed, RunConfig):
        raise UserError(f"{unknown[0]} is not a known key: remove it, or see mtlora/config.py for the keys there are")
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(f"{', '.join(missing)}: no value: give it in the YAML file under conf/, or on the command line")
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
    """Check what types cannot: ranges, choices and combinations.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    for key, allowed in CHOICES.items():
        if (value := lookup(config, key)) not in allowed:
            raise UserError(f"{key}={value} is not known: choose one of {', '.join(allowed)}")
    for key, least in AT_LEAST.items():
        if (value := lookup(config, key)) is not None and not value >= least:
            raise UserError(f"{key}={value} is out of range: it must be at least {least:g}")
    for key in POSITIVE:
        if not lookup(config, key) > 0:
            raise UserError(f"{key}={lookup(config, key)} is out of range: it must be above 0")
    for key in BELOW_ONE:
        if not 0 <= lookup(config, key) < 1:
            raise UserError(f"{key}={lookup(config, key)} is out of range: it must be at least 0 and below 1")
    if config.targets not in config.model.target_sets:
        known = ", ".join(config.model.target_sets)
        raise UserError(
            f"targets={config.targets} is not a target set of model {config.model.name}: choose one of {known}"
        )
    if config.adapter.init_weights == "zero_t":
        from mtlora.adapter.transforms import STRUCTURES  # imports torch, which plans do without

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
    _validate_metrics(config.task)


def _validate_metrics(task: TaskConfig) -> None:
    generation = task.kind == "generation"
    known = [name for name, info in METRICS.items() if info.text == generation]
    for split, names in task.metrics.items():
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"task.metrics of {task.name}: {unknown[0]} is not known: choose from {', '.join(known)}")
        if generation and split not in TEST_PARTS:
            raise UserError(f"task.metrics of {task.name}: {split} is not one of {', '.join(TEST_PARTS)}")


def _unknown_keys(node: Any, schema: type, prefix: str = "") -> list[str]:
    """List keys that `+key=value` added to the composition although the schema has no such field."""
    known = {f.name: f.type for f in fields(schema)}
    unknown = [f"{prefix}{key}" for key in node if key not in known]
    for key, kind in known.items():
        if isinstance(kind, type) and is_dataclass(kind):
            unknown += _unknown_keys(node[key], kind, f"{prefix}{key}.")
    return unknown
