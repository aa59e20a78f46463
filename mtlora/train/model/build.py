"""The model of a run: backbone, fresh head and adapter, each random start drawn from its own named stream."""

import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel, TaskType, get_peft_model
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mtlora.adapter import MTLoraConfig
from mtlora.adapter.layer import MTLoraLayer
from mtlora.base.errors import UserError
from mtlora.base.hashing import digest
from mtlora.base.streams import torch_stream
from mtlora.config.schema import RunConfig
from mtlora.plan.cell import model_content
from mtlora.records.schema import Parameters
from mtlora.train.model.backbones import drop_unread_tokens, load_backbone

ADAPTER = "default"


def build_model(config: RunConfig, tokenizer: PreTrainedTokenizerBase, shared: bool = False) -> PeftModel:
    """Build the model of a run: pretrained backbone, fresh head, fresh adapter.

    The head depends on (seed, parameter name) and each adapter matrix on (seed, letter, module name) alone, so at one seed
    all methods share the head, and all methods of one rank share A. `shared`: see `fresh_backbone`.

    Raises:
        UserError: the weights cannot be loaded or differ from their checksum; the target set matches no module.
    """
    backbone = fresh_backbone(config, len(tokenizer), shared)
    reset_head(backbone, config.model.head, config.seed)
    try:
        model = get_peft_model(backbone, adapter_config(config))
    except ValueError as error:
        pattern = config.model.target_sets[config.targets].modules
        raise UserError(
            f"targets={config.targets} ({pattern}) of model {config.model.name} cannot be adapted: {error}"
        ) from None
    reset_adapter(model, config)
    return model


_loaded: dict[str, PreTrainedModel] = {}


def fresh_backbone(config: RunConfig, vocabulary: int, shared: bool) -> PreTrainedModel:
    """Return a copy of a backbone; a process reads the weights only once.

    With `shared`, for runs that train together, only the head is copied and all other tensors are shared. A run alone gets copies
    of all tensors: the rounding of matrix products depends on their addresses, and a repeated run should get the same ones.
    """
    key = digest([asdict(config.model), model_content(config), config.task.kind, len(config.task.labels), vocabulary])
    if key not in _loaded:
        _loaded.clear()  # the previous backbone was used by runs that have ended
        _loaded[key] = load_backbone(config, vocabulary)
        if config.task.kind != "generation":
            drop_unread_tokens(_loaded[key])
    source = _loaded[key]
    if not shared:
        return copy.deepcopy(source)
    own = {id(p) for name, p in source.named_parameters() if set(name.split(".")) & set(config.model.head)}
    return copy.deepcopy(source, {id(t): t for t in (*source.parameters(), *source.buffers()) if id(t) not in own})


def reset_head(backbone: PreTrainedModel, head: list[str], seed: int) -> None:
    """Give the head a fresh start, as in BERT: weights from N(0, initializer_range), biases 0, and the weights of norms 1.

    Each weight is drawn from a stream of its own, (seed, "head", parameter name).

    Raises:
        UserError: `head` matches no module of the backbone.
    """
    parameters = [(name, p) for name, p in backbone.named_parameters() if set(name.split(".")) & set(head)]
    if head and not parameters:
        raise UserError(f"model.head={head} matches no module of {type(backbone).__name__}: correct conf/model/")
    for name, parameter in parameters:
        if parameter.dim() > 1:
            std = getattr(backbone.config, "initializer_range", 0.02)  # the default of transformers
            nn.init.normal_(parameter, std=std, generator=torch_stream(seed, "head", name))
        else:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)


def set_output_bias(model: nn.Module, value: float) -> None:
    """Set the output bias of a regression head, its only bias with one element, to `value`.

    Raises:
        UserError: there is not exactly one such bias.
    """
    biases = [p for name, p in model.named_parameters() if name.endswith("bias") and p.requires_grad and p.numel() == 1]
    if len(biases) != 1:
        raise UserError("train.mean_bias=true needs a regression head with one output bias: set it to false")
    nn.init.constant_(biases[0], value)


def adapter_config(config: RunConfig) -> MTLoraConfig:
    """Return the PEFT configuration of a run; `structure="none"` is LoRA."""
    a, chosen = config.adapter, config.model.target_sets[config.targets]
    transform = chosen.fused_transform if a.fused_transform == "auto" else a.fused_transform
    return MTLoraConfig(
        task_type=TaskType.CAUSAL_LM if config.task.kind == "generation" else TaskType.SEQ_CLS,
        r=a.r,
        mtlora_alpha=a.alpha,
        mtlora_dropout=a.dropout,
        use_rslora=a.use_rslora,
        structure=a.structure,  # type: ignore[arg-type]  # config.checks has checked these three
        init_weights=a.init_weights,  # type: ignore[arg-type]
        fused_modules=dict(chosen.fused) or None,
        fused_transform=transform,  # type: ignore[arg-type]
        target_modules=chosen.modules,
        modules_to_save=list(config.model.head) or None,
    )


def reset_adapter(model: PeftModel, config: RunConfig) -> None:
    """Draw A, B, C, D of every adapted layer from the streams (seed, letter, module name)."""
    for name, layer in model.named_modules():
        if isinstance(layer, MTLoraLayer):
            layer.reset_mtlora_parameters(
                ADAPTER,
                config.adapter.init_weights,
                generators=partial(_matrix_stream, config.seed, name),
            )


def _matrix_stream(seed: int, module: str, letter: str) -> torch.Generator:
    return torch_stream(seed, letter, module)


def load_adapter_tensors(model: PeftModel, folder: Path) -> None:
    """Copy the adapter tensors (not the head) of a finished run into a fresh model of the same method and rank.

    Raises:
        UserError: the file is missing or unreadable, or its adapter tensors are not exactly those of the model.
    """
    path = folder / "adapter_model.safetensors"
    try:
        saved = load_file(path)
    except Exception as error:  # OSError, or safetensors' own error for a damaged file
        raise UserError(f"init_from: cannot read {path} ({error}): train that run again") from None
    saved = {name: tensor for name, tensor in saved.items() if ".mtlora_" in name}
    own = {
        name.replace(f".{ADAPTER}", ""): parameter for name, parameter in model.named_parameters() if ".mtlora_" in name
    }
    if differing := sorted(set(saved) ^ set(own)):
        raise UserError(f"init_from: {path} does not fit this adapter: only one of the two has {differing[0]}")
    for name, parameter in own.items():
        if parameter.shape != saved[name].shape:
            raise UserError(f"init_from: {path} does not fit this adapter: {name} has another shape")
        with torch.no_grad():
            parameter.copy_(saved[name])


def count_parameters(model: PeftModel) -> Parameters:
    """Count parameters: `adapter` and `head` are trained; `total` also counts the frozen ones, but not a replaced head."""
    head = sum(
        p.numel()
        for m in model.modules()
        if isinstance(m, ModulesToSaveWrapper)
        for p in m.modules_to_save.parameters()
    )
    adapter = sum(p.numel() for name, p in model.named_parameters() if ".mtlora_" in name)
    frozen = sum(
        p.numel()
        for m in model.modules()
        if isinstance(m, ModulesToSaveWrapper)
        for p in m.original_module.parameters()
    )
    return {"adapter": adapter, "head": head, "total": sum(p.numel() for p in model.parameters()) - frozen}
