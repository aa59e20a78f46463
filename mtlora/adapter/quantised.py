"""Base layers with quantised weights: bitsandbytes' in 8 and 4 bits, and torchao's, by PEFT's backends for them."""

from typing import Any

import torch
from peft.utils import resolve_quantization_backend
from peft.utils.integrations import get_bnb_param_type
from peft.utils.quantization_utils import (
    Bnb4bitBackend,
    Bnb8bitBackend,
    ForwardOnlyQuantizationBackend,
    QuantizationBackend,
    TorchaoBackend,
)
from torch import nn

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SUPPORTED = (Bnb4bitBackend, Bnb8bitBackend, TorchaoBackend)
REQUANTISER = "get_apply_tensor_subclass"  # of PEFT's options: how torchao has quantised a weight


def is_quantised(weight: torch.Tensor) -> bool:
    """Tell whether a weight is stored in another form than its values: as integers or 8-bit floats, or packed as by torchao."""
    packed = hasattr(weight, "__tensor_flatten__") and type(weight).__name__ != "DTensor"
    return packed or weight.dtype not in DTYPES


def is_or_will_be_quantised(weight: torch.Tensor) -> bool:
    """Tell whether a weight is quantised, or is one of bitsandbytes, which quantises it when it is moved to its device."""
    return is_quantised(weight) or bool(get_bnb_param_type(weight))  # type: ignore[arg-type]


def backend_of(base: nn.Module, options: dict[str, Any]) -> QuantizationBackend | None:
    """Return PEFT's backend that dequantises and quantises the weight of a layer; None if there is none that MTLoRA supports.

    Args:
        base: A layer with a weight.
        options: What `peft.utils.get_quantization_kwargs` found out about its model. Without it a torchao weight can be adapted,
            but not merged, because nothing tells how to quantise it again.
    """
    if not isinstance(base, nn.Linear) or not is_or_will_be_quantised(base.weight):
        return None  # asked first, because the backends import bitsandbytes and torchao, which takes seconds
    requantiser = options.get(REQUANTISER)
    found = resolve_quantization_backend(base, **{REQUANTISER: requantiser or _unknown})
    if isinstance(found, TorchaoBackend) and requantiser is None:
        return ForwardOnlyQuantizationBackend("torchao")
    return found if isinstance(found, SUPPORTED) else None


def _unknown() -> None:
    """Stand in for the unknown way in which torchao has quantised a weight."""


def check_gradient(base: nn.Module) -> None:
    """Check that gradients pass through a layer to its input; not where torchao rounds the input, too.

    Raises:
        ValueError: They do not.
    """
    if any(getattr(base.weight, name, None) is not None for name in ("act_quant_kwargs", "activation_quantization")):
        raise ValueError(
            "The base layer quantises its input, too, and passes no gradient through it: for training, quantise weights only, "
            "as with torchao's Int8WeightOnlyConfig."
        )


def keep_unpacked(model: nn.Module) -> None:
    """Keep the 4-bit weights of a model in the order in which they can be dequantised and gradients pass through them.

    On CPUs with AVX512-BF16, bitsandbytes packs them in another order in their first forward pass outside of training, for good:
    from then on dequantising gives wrong values, and a training step fails or gets no gradient. Weights that are packed already
    are brought back; their scales stay rounded to bf16.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            state = getattr(module.weight, "quant_state", None)
            if state is not None and getattr(state, "packing_format_for_cpu", False):
                module.state_dict()  # restores the order of the weight, but not that of single scales
                if state.absmax.dim() == 2:
                    state.absmax = state.absmax.T.flatten().float()
