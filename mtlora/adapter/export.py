"""Exact export of an MTLoRA adapter to a plain LoRA adapter, which any tool that serves LoRA can load.

``(alpha / r) B T A`` is LoRA with ``B' = B T``. A fused layer becomes one LoRA of rank ``R = k r`` with A stacked and
B block-wise, 0 in the slices that are not adapted. LoRA divides its alpha by R (by sqrt(R) with rsLoRA), so alpha is
multiplied by k (by sqrt(k)), which leaves the scaling as it was.
"""

import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import nn

from mtlora.adapter.config import MTLoraConfig
from mtlora.adapter.layer import Embedding, MTLoraLayer


def to_lora(model: BaseTuner, adapter_name: str = "default") -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """Return an adapter as a plain LoRA adapter that computes the same update.

    Args:
        model: The tuner, `MTLoraModel`, which is ``peft_model.base_model``.
        adapter_name: Name of the adapter.

    Returns:
        The LoRA configuration, and copies of the tensors, named as in the ``adapter_model.safetensors`` of PEFT, with
        biases and `modules_to_save` if the adapter has them.

    Raises:
        ValueError: If there is no such adapter, or if it is merged at the moment.
    """
    if adapter_name not in model.peft_config:
        raise ValueError(f"There is no adapter {adapter_name!r}; the model has {sorted(model.peft_config)}.")
    layers = {
        name: layer
        for name, layer in model.model.named_modules()
        if isinstance(layer, MTLoraLayer) and adapter_name in layer.mtlora_A
    }
    if any(layer.merged for layer in layers.values()):
        raise ValueError("The model has merged adapters; call `unmerge_adapter` before the export.")

    config = cast(MTLoraConfig, model.peft_config[adapter_name])
    saved = get_peft_model_state_dict(model, adapter_name=adapter_name)
    # Files name tensors as a PeftModel does, which calls its tuner "base_model".
    matrices = {f"model.{name}.mtlora_{letter}.weight" for name in layers for letter in "ABCD"}
    tensors = {f"base_model.{key}": value for key, value in saved.items() if key not in matrices}
    for name, layer in layers.items():
        infix, suffix = ("lora_embedding_", "") if isinstance(layer, Embedding) else ("lora_", ".weight")
        for letter, factor in zip("AB", layer.get_lora_factors(adapter_name), strict=True):
            tensors[f"base_model.model.{name}.{infix}{letter}{suffix}"] = factor.to(
                layer.weight_of("A", adapter_name).dtype
            )
    ranks = {name: _rank_and_alpha(layer, adapter_name, config.use_rslora) for name, layer in layers.items()}
    return _lora_config(config, ranks), {key: value.detach().clone().contiguous() for key, value in tensors.items()}


def save_as_lora(model: PeftModel | BaseTuner, folder: str | os.PathLike[str], adapter_name: str = "default") -> None:
    """Save an adapter as plain LoRA: ``adapter_config.json`` and ``adapter_model.safetensors``.

    ``PeftModel.from_pretrained(base_model, folder)`` loads the result without this package.

    Args:
        model: The PEFT model, or its tuner.
        folder: The folder to write to; it is created if it does not exist.
        adapter_name: Name of the adapter.

    Raises:
        ValueError: As `to_lora`.
    """
    tuner = model.base_model if isinstance(model, PeftModel) else model
    config, tensors = to_lora(cast(BaseTuner, tuner), adapter_name)
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(folder) / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    config.save_pretrained(os.fspath(folder), auto_mapping_dict=_auto_mapping(cast(nn.Module, tuner.model), config))
    shutil.copymode(Path(folder) / CONFIG_NAME, Path(folder) / SAFETENSORS_WEIGHTS_NAME)  # safetensors: the owner only


def _rank_and_alpha(layer: MTLoraLayer, adapter_name: str, use_rslora: bool) -> tuple[int, float]:
    k, r, alpha = sum(layer.slices[adapter_name]), layer.r[adapter_name], layer.mtlora_alpha[adapter_name]
    return k * r, alpha if k == 1 else alpha * (math.sqrt(k) if use_rslora else k)


def _lora_config(config: MTLoraConfig, ranks: dict[str, tuple[int, float]]) -> LoraConfig:
    """Translate the configuration; `ranks` has (rank, alpha) of every adapted module.

    The most common pair becomes the default and the others go to the patterns, each under its full name.
    """
    (r, alpha), _ = Counter(ranks.values()).most_common(1)[0]
    exceptions = {f"^{re.escape(name)}": pair for name, pair in ranks.items() if pair != (r, alpha)}
    shared = (
        "task_type", "base_model_name_or_path", "revision", "target_modules", "exclude_modules", "modules_to_save",
        "layers_to_transform", "layers_pattern", "fan_in_fan_out", "use_rslora",
    )  # fmt: skip
    values: dict[str, Any] = {name: getattr(config, name) for name in shared}
    values["lora_alpha"] = alpha  # annotated as int, but PEFT only divides by the rank
    return LoraConfig(
        r=r,
        lora_dropout=config.mtlora_dropout,
        bias="lora_only" if config.bias == "mtlora_only" else config.bias,
        rank_pattern={name: rank for name, (rank, _) in exceptions.items()},
        alpha_pattern={name: alpha for name, (_, alpha) in exceptions.items()},
        inference_mode=True,
        **values,
    )


def _auto_mapping(base_model: nn.Module, config: LoraConfig) -> dict[str, str] | None:
    """Name the class of the base model for `AutoPeftModel`, which needs it when there is no task type."""
    if config.task_type is not None:
        return None
    return {"base_model_class": type(base_model).__name__, "parent_library": type(base_model).__module__}
