"""The methods that a run can train: LoRA and MTLoRA, any other method of PEFT, and full fine-tuning.

Every method gets the same initial head, batches and dropout masks. Only LoRA and MTLoRA also share the initial A; PEFT builds any
other method, with random numbers drawn from (seed, task, "adapter").
"""

import importlib
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from peft import PeftConfig, PeftModel, TaskType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import PreTrainedModel

from mtlora.adapter import MTLoraConfig
from mtlora.adapter.layer import MTLoraLayer
from mtlora.adapter.transforms import first_step
from mtlora.base.errors import UserError
from mtlora.base.streams import stream_seed, torch_stream
from mtlora.config.schema import RunConfig, TargetSet
from mtlora.records.schema import Effective

ADAPTER = "default"
MethodModel = PeftModel | PreTrainedModel  # the second for full fine-tuning
# What PEFT raises for values and modules that it cannot use.
REFUSALS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, ImportError, NotImplementedError)
# Fields of PEFT's configurations that seed random numbers beside PyTorch's global generator.
SEEDS = ("generator_seed", "proj_seed", "projection_prng_key", "projection_seed", "random_loc_seed", "random_seed")


def add_method(backbone: PreTrainedModel, config: RunConfig) -> MethodModel:
    """Return the model that trains: the backbone with an adapter, or the backbone itself for full fine-tuning.

    Raises:
        UserError: the method or the target set does not fit the backbone.
    """
    if config.adapter.full:
        backbone.requires_grad_(True)
        return backbone
    made = _peft_config(config) if config.adapter.peft else mtlora_config(config)
    try:
        # For methods of PEFT, whose starts come from the global generator; ours is drawn again below.
        with torch.random.fork_rng():
            torch.manual_seed(stream_seed(config.seed, config.task.name, "adapter"))
            model = get_peft_model(backbone, made, revision=_revision(config))
    except REFUSALS as error:
        if not (config.adapter.peft or isinstance(error, ValueError)):
            raise  # a mistake in our own code
        pattern = config.model.target_sets[config.targets].modules
        raise UserError(
            f"transform={config.adapter.method} targets={config.targets} ({pattern}) of model {config.model.name} "
            f"cannot be adapted: {' '.join(str(error).split())}"
        ) from error
    if hasattr(model.base_model, "update_and_allocate"):
        raise UserError(
            f"transform={config.adapter.method} changes its ranks during training, which is not supported here"
        )
    for name, layer in model.named_modules():
        if isinstance(layer, MTLoraLayer):
            layer.reset_mtlora_parameters(
                ADAPTER, config.adapter.init_weights, generators=partial(_matrix_stream, config, name)
            )
            for factors in (layer.mtlora_C, layer.mtlora_D):
                factors.requires_grad_(config.adapter.train_t)
    return model


def _revision(config: RunConfig) -> str | None:
    """Return the pinned revision of a base model from the hub, which an adapter's configuration names."""
    return config.model.revision if config.model.source == "hub" and config.model.path is None else None


def _matrix_stream(config: RunConfig, module: str, letter: str) -> torch.Generator:
    return torch_stream(config.seed, config.task.name, letter, module)


def effective(config: RunConfig) -> Effective:
    """Return the learning rate, the alpha and the relative size of the first step of a run."""
    a = config.adapter
    own = first_step(a.structure, _size_of_t(config)) if a.changes_step else 1.0
    alpha = a.alpha / own if a.step == "matched" else a.alpha
    if a.like is not None:
        alpha *= first_step(a.like, _size_of_t(config))
    return {"learning_rate": config.learning_rate, "alpha": alpha, "first_step": own}


def _size_of_t(config: RunConfig) -> int:
    """Return the number of rows of T; a joint T mixes all adapted slices."""
    chosen = _targets(config)
    slices = [sum(flags) for flags in chosen.fused.values()]
    joint = slices and _fused_transform(config) == "joint"
    return config.adapter.r * (max(slices) if joint else 1)


def _targets(config: RunConfig) -> TargetSet:
    return config.model.target_sets[config.targets]


def _fused_transform(config: RunConfig) -> str:
    own = config.adapter.fused_transform
    return _targets(config).fused_transform if own == "auto" else own


def _task_type(config: RunConfig) -> TaskType:
    return TaskType.CAUSAL_LM if config.task.kind == "generation" else TaskType.SEQ_CLS


def mtlora_config(config: RunConfig) -> MTLoraConfig:
    """Return the configuration of LoRA (`structure="none"`) or MTLoRA."""
    a, chosen = config.adapter, _targets(config)
    return MTLoraConfig(
        task_type=_task_type(config),
        r=a.r,
        mtlora_alpha=effective(config)["alpha"],
        mtlora_dropout=a.dropout,
        use_rslora=a.use_rslora,
        structure=a.structure,  # type: ignore[arg-type]  # config.checks has checked these three
        init_weights=a.init_weights,  # type: ignore[arg-type]
        fused_modules=dict(chosen.fused) or None,
        fused_transform=_fused_transform(config),  # type: ignore[arg-type]
        target_modules=chosen.modules,
        modules_to_save=list(config.model.head) or None,
    )


def _peft_config(config: RunConfig) -> PeftConfig:
    """Return the configuration of another PEFT method.

    Rank, alpha, dropout, target modules and head are filled in where it has such a field and `adapter.peft` does not set it.

    Raises:
        UserError: the method is unknown, lacks a given field, or cannot do what the run asks for.
    """
    given = dict(config.adapter.peft)
    where = f"transform={config.adapter.method}"
    if (module := given.pop("module", None)) is not None:
        try:
            importlib.import_module(str(module))
        except Exception as error:  # a module of one's own can raise anything, such as a SyntaxError
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{where}: adapter.peft.module={module} cannot be imported: {reason}") from error
    kind = str(given.pop("peft_type", "")).upper()
    types = {getattr(key, "value", key): value for key, value in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if kind not in types:
        known = ", ".join(sorted(types))
        raise UserError(f"{where}: adapter.peft.peft_type={kind} is not a method of this PEFT: choose one of {known}")
    names = {field.name for field in fields(types[kind])}
    if unknown := sorted(set(given) - names):
        raise UserError(f"{where}: {types[kind].__name__} has no field {unknown[0]}: remove it from adapter.peft")
    if _targets(config).fused:
        raise UserError(
            f"{where} cannot adapt slices of a projection, as targets={config.targets} of {config.model.name} wants: "
            "choose another target set"
        )
    wanted = _shared_values(config, kind.lower(), names)
    seeds = {
        name: stream_seed(config.seed, config.task.name, "adapter", name) % 2**31 for name in SEEDS if name in names
    }
    try:
        made = types[kind](**{"task_type": _task_type(config)} | wanted | seeds | given)
    except REFUSALS as error:
        raise UserError(f"{where}: {types[kind].__name__} refuses its values: {' '.join(str(error).split())}") from None
    if made.is_prompt_learning and config.task.kind == "generation":
        raise UserError(f"{where} puts tokens before the input, which data-to-text tasks do not support here")
    return made


def _shared_values(config: RunConfig, kind: str, names: set[str]) -> dict[str, Any]:
    """Return the values that all methods share, for the fields that a configuration has."""
    a = config.adapter
    found: dict[str, Any] = {"r": a.r, "target_modules": _targets(config).modules}
    found["modules_to_save"] = list(config.model.head) or None
    found = {name: value for name, value in found.items() if name in names}
    if alpha := next((name for name in (f"{kind}_alpha", "lora_alpha", "alpha") if name in names), None):
        found[alpha] = a.alpha
    if dropout := next((name for name in (f"{kind}_dropout", "lora_dropout") if name in names), None):
        found[dropout] = a.dropout
    elif a.dropout:
        raise UserError(f"transform={a.method} has no dropout of its own: set adapter.dropout=0")
    return found
