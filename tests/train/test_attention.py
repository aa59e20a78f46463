"""Attention as two products equals PyTorch's, gradients and dropout included."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtlora.base.onednn import fp32_matmul_precision, set_fp32_matmul_precision
from mtlora.train.model.attention import ProductAttention, fastest_attention

SEEN = torch.ones(2, 1, 5, 5, dtype=torch.bool)
SEEN[1, ..., 3:] = False
ADDED = torch.zeros(2, 1, 1, 5, dtype=torch.double).masked_fill(~SEEN[:, :, :1], -1e9)


def answer_and_gradients(**arguments: object) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(2, 3, 5, 4, dtype=torch.double, generator=generator).requires_grad_() for _ in range(3)]
    torch.manual_seed(7)
    answer = F.scaled_dot_product_attention(*factors, **arguments)  # type: ignore[arg-type]
    answer.square().sum().backward()
    return [answer.detach(), *(factor.grad for factor in factors if factor.grad is not None)]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"attn_mask": SEEN},
        {"attn_mask": ADDED, "scale": 0.3},
        {"is_causal": True},
        {"attn_mask": SEEN, "dropout_p": 0.5},
        {"is_causal": True, "dropout_p": 0.1},
    ],
    ids=["plain", "booleans", "added, scaled", "causal", "dropout", "causal dropout"],
)
def test_products_equal_pytorch(arguments: dict[str, object]) -> None:
    expected = answer_and_gradients(**arguments)
    with ProductAttention():
        ours = answer_and_gradients(**arguments)
    assert len(ours) == 4
    for one, other in zip(ours, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_grouped_queries() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 3, 8, dtype=torch.double), torch.randn(1, 2, 3, 8, dtype=torch.double)
    expected = F.scaled_dot_product_attention(query, key, key, enable_gqa=True)
    with ProductAttention():
        assert torch.allclose(F.scaled_dot_product_attention(query, key, key, enable_gqa=True), expected)


def test_a_query_that_may_see_no_key_hurts_nobody() -> None:
    mask = SEEN.expand(2, 1, 5, 5).clone()
    mask[0, :, 0] = False  # padding on the left
    expected = answer_and_gradients(attn_mask=mask)[0]
    with ProductAttention():
        ours = answer_and_gradients(attn_mask=mask)
    assert all(torch.isfinite(tensor).all() for tensor in ours)
    assert torch.allclose(ours[0][0, :, 1:], expected[0, :, 1:])
    assert torch.allclose(ours[0][1], expected[1])


def test_products_are_used_on_a_cpu_that_multiplies_through_onednn() -> None:
    before = fp32_matmul_precision()
    try:
        set_fp32_matmul_precision("bf16")
        assert isinstance(fastest_attention(torch.device("cpu")), ProductAttention)
        assert not isinstance(fastest_attention(torch.device("cuda")), ProductAttention)
        set_fp32_matmul_precision("ieee")
        assert not isinstance(fastest_attention(torch.device("cpu")), ProductAttention)
    finally:
        set_fp32_matmul_precision(before)
