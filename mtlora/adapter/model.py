"""The tuner: it puts MTLoRA layers into a model and takes them out again."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_target_module_exists
from peft.utils import (
    INCLUDE_LINEAR_LAYERS_SHORTHAND,
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    AuxiliaryTrainingWrapper,
    get_quantization_kwargs,
)
from peft.utils.other import get_pattern_key
from torch import nn
from transformers.pytorch_utils import Conv1D

from mtlora.adapter import export
from mtlora.adapter.checks import reason_not_to_adapt
from mtlora.adapter.config import MTLoraConfig
from mtlora.adapter.layer import Embedding, Linear, MTLoraLayer
from mtlora.adapter.matrices import with_current_names
from mtlora.adapter.quantised import backend_of, keep_unpacked


class MTLoraModel(BaseTuner):
    """A model with MTLoRA adapters, as `peft.get_peft_model` builds it from an `MTLoraConfig`.

    Adapts `nn.Linear`, also if bitsandbytes or torchao has quantised it, transformers' `Conv1D` and `nn.Embedding`.

    Raises:
        ValueError: A target module cannot be adapted (`checks.reason_not_to_adapt`), or `fused_modules` names no target module,
            an embedding, or a number of slices that does not divide the outputs.
    """

    prefix = "mtlora_"
    tuner_layer_cls = MTLoraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        """Look a name up here, then in the base model; one that only PEFT's LoRA has is refused in MTLoRA's name.

        Raises:
            AttributeError: None of them has it.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            if not hasattr(LoraModel, name):
                raise
        raise AttributeError(f"MTLoRA has no `{name}`: export the adapters with `save_as_lora` and use it on those.")

    def to_lora(self, adapter_name: str = "default") -> tuple[LoraConfig, dict[str, torch.Tensor]]:
        """Return the adapter as a plain LoRA adapter that computes the same update; see `export.to_lora`."""
        return export.to_lora(self, adapter_name)

    def save_as_lora(self, folder: str | os.PathLike[str], adapter_name: str = "default") -> None:
        """Save the adapter as plain LoRA in a folder that PEFT loads without this package; see `export.save_as_lora`."""
        export.save_as_lora(self, folder, adapter_name)

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model, config, adapter_name, state_dict):  # type: ignore[no-untyped-def]
        # called by `peft.set_peft_model_state_dict`
        renamed = with_current_names(state_dict)
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, renamed)

    def _prepare_model(self, peft_config: MTLoraConfig, model: nn.Module) -> None:  # type: ignore[override]
        # Checked before the first layer is injected: an adapter that fails halfway would leave layers behind.
        fused = peft_config.fused_modules or {}
        unused = set(fused)
        for name, module in model.named_modules() if fused else ():
            pattern = get_pattern_key(list(fused), name)
            if pattern in fused and _is_target(peft_config, name):
                _check_slices(module, fused[pattern], name)
                unused.discard(pattern)
        if unused:
            raise ValueError(f"`fused_modules` names {min(unused)!r}, but no target module has that name.")
        keep_unpacked(model)

    def _create_and_replace(  # type: ignore[override]  # only modules are targeted, never single parameters
        self,
        peft_config: MTLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        layer = target if isinstance(target, MTLoraLayer) else self._wrap(target, parent, current_key)
        slices = _lookup(peft_config.fused_modules or {}, current_key, None)
        if isinstance(layer.get_base_layer(), Conv1D) and not peft_config.fan_in_fan_out:
            warnings.warn(f"{current_key} is a `Conv1D`: setting fan_in_fan_out to True.", stacklevel=2)
            peft_config.fan_in_fan_out = True

        layer.update_layer(
            adapter_name,
            peft_config,
            r=_lookup(peft_config.rank_pattern, current_key, peft_config.r),
            alpha=_lookup(peft_config.alpha_pattern, current_key, peft_config.mtlora_alpha),
            slices=slices,
        )
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _wrap(self, target: nn.Module, parent: nn.Module, key: str) -> MTLoraLayer:
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        backend = backend_of(base, get_quantization_kwargs(self.model))
        if reason := reason_not_to_adapt(base, parent, backend):
            raise ValueError(f"MTLoRA cannot adapt module {key!r} of type {type(base).__name__}: {reason}.")
        return Embedding(target) if isinstance(base, nn.Embedding) else Linear(target, backend)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # An MTLoRA layer moves its adapters to the device of its base layer by itself, and on unloading the base layer
        # comes back unchanged. The base class would reassign `weight`, which fails for parametrized layers.
        setattr(parent, child_name, new_module)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand the argument `adapter_names` of a forward or generate call to every layer for its duration."""
        adapter_names = kwargs.get("adapter_names")
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        known = {name for layer in self.modules() if isinstance(layer, MTLoraLayer) for name in layer.mtlora_A}
        if unknown := sorted(set(adapter_names) - known - {"__base__"}):
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}")

        # beam search repeats each row, except in an encoder, which runs once before it
        beams = kwargs.get("num_beams") or 1
        repeated = [name for name in adapter_names for _ in range(beams)]
        in_encoder = _encoder_modules(self.model)
        handles = [
            module.register_forward_pre_hook(
                partial(_pass_adapter_names, adapter_names if module in in_encoder else repeated), with_kwargs=True
            )
            for module in self.modules()
            if isinstance(module, MTLoraLayer | AuxiliaryTrainingWrapper)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _lookup(pattern: dict[str, Any], key: str, default: Any) -> Any:
    """Return the value whose name or regular expression matches the module `key`, or `default`."""
    return pattern.get(get_pattern_key(list(pattern), key), default)


def _is_target(peft_config: MTLoraConfig, name: str) -> bool:
    if peft_config.target_modules == INCLUDE_LINEAR_LAYERS_SHORTHAND:  # PEFT resolves it later
        return bool(name)
    return bool(check_target_module_exists(peft_config, name))


def _check_slices(module: nn.Module, slices: list[bool], key: str) -> None:
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    if isinstance(base, nn.Embedding):
        raise ValueError(
            f"`fused_modules` names {key!r}, but an embedding has no slices; only linear layers can be fused."
        )
    outputs = base.nf if isinstance(base, Conv1D) else getattr(base, "out_features", 0)
    if outputs % len(slices):
        raise ValueError(
            f"`fused_modules` cuts {key!r} into {len(slices)} slices, but its {outputs} outputs are not divisible by that."
        )


def _encoder_modules(model: Any) -> set[nn.Module]:
    encoder: nn.Module = model.get_encoder() if hasattr(model, "get_encoder") else model
    return set() if encoder is model else set(encoder.modules())  # a decoder-only model returns itself


def _pass_adapter_names(
    adapter_names: list[str], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "adapter_names": adapter_names}
