"""Scaled dot product attention as two matrix products, for where PyTorch's own kernels are slower."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mtlora.base.onednn import fp32_matmul_precision


def fastest_attention(device: torch.device) -> AbstractContextManager[Any]:
    """Return what to compute attention in on a device.

    PyTorch's fused kernel for the CPU multiplies small blocks, and through oneDNN each of those products is set up anew: it then
    takes four to six times as long as two plain products (measured by tools/benchmarks/steps.py).
    """
    return ProductAttention() if device.type == "cpu" and fp32_matmul_precision() == "bf16" else nullcontext()


class ProductAttention(TorchFunctionMode):
    """While active, answers `F.scaled_dot_product_attention`; dropout draws what PyTorch would draw."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace that function; let all others pass."""
        if func is F.scaled_dot_product_attention:
            return attention(F.dropout, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def attention(
    dropout: Callable[[Tensor, float], Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return ``dropout(softmax(scale q k^T + mask)) v``, as `F.scaled_dot_product_attention` with the same arguments.

    A query that may see no key, as those of padding on the left, sees all of them: what it returns is finite, and used by nobody.

    Args:
        dropout: drops weights, (..., queries, keys), at a rate.
        query: (..., heads, queries, size).
        key: (..., heads, keys, size).
        value: (..., heads, keys, size of the output).
        attn_mask: what is added, or True where a key may be seen; broadcast to the weights.
        dropout_p: the rate.
        is_causal: each query sees the keys up to its own position; instead of a mask.
        scale: None is 1 / sqrt(size).
        enable_gqa: several heads of the query share a head of the keys and values.
    """
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    weights = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.mT
    if is_causal:
        attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=weights.dtype).masked_fill(
            ~attn_mask, torch.finfo(weights.dtype).min
        )
    if attn_mask is not None:
        weights.add_(attn_mask)  # in place: a product keeps its factors for the backward pass, not its result
    weights = weights.softmax(-1)
    return (dropout(weights, dropout_p) if dropout_p else weights) @ value
