"""Which modules MTLoRA can adapt, and into which base weights an update can be merged."""

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers.pytorch_utils import Conv1D

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def reason_not_to_adapt(base: nn.Module, parent: nn.Module) -> str | None:
    """Return why a module cannot be adapted, or None if it can.

    Args:
        base: The module.
        parent: The module that contains it.
    """
    if isinstance(parent, nn.MultiheadAttention):
        return "nn.MultiheadAttention reads the weight of its projections directly and would skip the adapter"
    if not isinstance(base, nn.Linear | Conv1D | nn.Embedding):
        return "only nn.Linear, transformers' Conv1D and nn.Embedding are supported"
    if is_quantised(base.weight):
        return "quantised weights are not supported"
    if isinstance(base, nn.Embedding) and base.max_norm is not None:
        return "an embedding with max_norm rescales its weight, so the update could not be merged"
    return None


def reason_not_to_merge(base: nn.Module) -> str | None:
    """Return why no update can be added to the weight of an adapted module, or None if it can."""
    if is_parametrized(base, "weight"):  # as by `weight_norm`: the weight is computed anew in each forward pass
        return "The base weight is parametrized: remove the parametrization before merging."
    if is_quantised(base.weight):  # type: ignore[arg-type]  # since the adapter was made
        return "The base weight is quantised: the update cannot be added to it."
    return None


def is_quantised(weight: torch.Tensor) -> bool:
    """Tell whether a weight is stored in another form than its values: as integers or 8-bit floats, or packed as by torchao."""
    packed = hasattr(weight, "__tensor_flatten__") and type(weight).__name__ != "DTensor"
    return packed or weight.dtype not in DTYPES
