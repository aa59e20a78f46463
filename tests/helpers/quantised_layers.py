"""Quantised linear layers of each kind that MTLoRA adapts, and their weights by the formula of each library."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

IN, OUT = 128, 96  # multiples of a block of 64 inputs and 32 outputs, in which bitsandbytes packs weights on some CPUs


def bitsandbytes() -> Any:
    return pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'mtlora[quant]'")


def torchao() -> Any:
    return pytest.importorskip("torchao", reason="torchao is not installed: pip install 'mtlora[quant]'")


def _int8(dense: nn.Linear) -> nn.Linear:
    bnb = bitsandbytes()
    layer = bnb.nn.Linear8bitLt(IN, OUT, has_fp16_weights=False)
    layer.load_state_dict(dense.state_dict())
    return layer.to("cpu")


def _four_bits(kind: str, nested: bool) -> Callable[[nn.Linear], nn.Linear]:
    def made(dense: nn.Linear) -> nn.Linear:
        bnb = bitsandbytes()
        layer = bnb.nn.Linear4bit(IN, OUT, compute_dtype=torch.float32, quant_type=kind, compress_statistics=nested)
        layer.load_state_dict(dense.state_dict())
        return layer.to("cpu")

    return made


def _torchao(dense: nn.Linear) -> nn.Linear:
    ao = torchao()
    whole = nn.Sequential(dense)
    ao.quantization.quantize_(whole, ao.quantization.Int8WeightOnlyConfig())
    return whole[0]


MAKERS: dict[str, Callable[[nn.Linear], nn.Linear]] = {
    "int8": _int8,
    "nf4": _four_bits("nf4", False),
    "nf4, scales quantised too": _four_bits("nf4", True),
    "fp4": _four_bits("fp4", False),
    "torchao": _torchao,
}


def dense(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(IN, OUT)


def quantised(kind: str, weight: torch.Tensor | None = None) -> nn.Linear:
    """Return a quantised layer, from a weight or a random one."""
    layer = dense()
    if weight is not None:
        layer.weight = nn.Parameter(weight.detach().clone())
    return MAKERS[kind](layer)


def dequantised(layer: nn.Module) -> torch.Tensor:
    """Return the weight of a quantised layer (out, in), by the formula of its library."""
    weight: Any = layer.weight
    if type(weight).__name__ == "Int8Params":
        scale = layer.state.SCB if weight.SCB is None else weight.SCB
        return weight.data.float() * scale[:, None] / 127
    if type(weight).__name__ == "Params4bit":
        return bitsandbytes().functional.dequantize_4bit(weight.data, weight.quant_state)
    return weight.dequantize()
