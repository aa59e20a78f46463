"""The attention function of the backbones, registered with the `AttentionInterface` of transformers.

It computes scaled dot product attention as two matrix products where PyTorch's own kernel is slower, or where dropout has masks
of its own, and calls PyTorch elsewhere. Beam search passes its own computation (`attend`).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mtlora.base.onednn import fp32_matmul_precision
from mtlora.train.model.dropout import masks_of

NAME = "mtlora"  # of the function `attention` in the interface
LEFT_TO_PYTORCH = (
    "position_bias",
    "softcap",
)  # arguments of a few models; PyTorch's attention does not support the second

# (number of the layer, query, scale) -> output of the layer's attention, shaped as the query.
Attend = Callable[[int, Tensor, float | None], Tensor]


def use_own_attention(model: PreTrainedModel) -> None:
    """Let a model compute its attention by the function `attention`.

    A model without support for the interface, such as DeBERTa, or for PyTorch's attention is left unchanged.
    """
    if model.is_backend_compatible() and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


def products_are_faster(device: torch.device) -> bool:
    """Tell whether two plain products are faster than PyTorch's fused kernel.

    On the CPU that kernel multiplies small blocks. With oneDNN, which has a set-up cost for each product, it takes four to nine
    times as long as two plain products (measured by tools/benchmarks/steps.py).
    """
    return device.type == "cpu" and fp32_matmul_precision() == "bf16"


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    attend: Attend | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention of a layer, (batch, queries, heads, size), and None for the weights; the layer calls this function.

    Args:
        module: the layer, with the masks that `use_masks` set, if any.
        query: (batch, heads, queries, size).
        key: (batch, heads of keys, keys, size).
        value: as `key`.
        attention_mask: boolean, True where a key may be seen, (batch, 1, queries, keys).
        dropout: the dropout rate of the weights; 0 outside of training.
        scaling: None is 1 / sqrt(size).
        is_causal: whether each query sees only the keys up to its own position; None is the layer's own `is_causal`. As in
            the functions of transformers, it matters only for several queries without a mask.
        attend: computes the attention instead; an argument of the model's forward, which passes it on.
        **kwargs: passed to PyTorch's attention.
    """
    if attend is not None:
        return attend(module.layer_idx, query, scaling).transpose(1, 2).contiguous(), None
    masks = masks_of(module) if dropout else None
    plain = all(kwargs.get(name) is None for name in LEFT_TO_PYTORCH)
    if plain and (masks is not None or products_are_faster(query.device)):
        is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        causal = is_causal and attention_mask is None and query.shape[2] > 1
        drop = F.dropout if masks is None else masks.drop
        output = products(query, key, value, attention_mask, scaling, causal, dropout, drop)
        return output.transpose(1, 2).contiguous(), None
    arguments = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **kwargs}
    return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)


def products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
    drop: Callable[[Tensor, float], Tensor] = F.dropout,
) -> Tensor:
    """Return ``dropout(softmax(scale q k^T + mask)) v``, as `F.scaled_dot_product_attention` with the same arguments.

    A fully masked query (padding on the left) attends uniformly, so its unused output is finite rather than NaN.

    Args:
        query: (..., heads, queries, size).
        key: (..., heads, keys, size); with fewer heads than the query, each is shared by neighbouring heads of the query.
        value: as `key`, (..., size of the output).
        mask: a float mask is added, a boolean one is True where a key may be seen; broadcast to the weights.
        scale: None is 1 / sqrt(size).
        is_causal: each query sees only the keys up to its own position; replaces the mask.
        dropout: the dropout rate of the weights.
        drop: the dropout function: (weights (..., heads, queries, keys), rate) -> weights.
    """
    if key.shape[-3] != query.shape[-3]:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    weights = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.mT
    if is_causal:
        mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=weights.dtype).masked_fill(~mask, torch.finfo(weights.dtype).min)
    if mask is not None:
        weights.add_(mask)  # in place is safe: the backward pass needs the factors of the product, not its result
    weights = weights.softmax(-1)
    return (drop(weights, dropout) if dropout else weights) @ value


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
