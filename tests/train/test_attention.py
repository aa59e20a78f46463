"""Attention as two products equals PyTorch's, gradients and dropout included, and reaches models through transformers."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from mtlora.base.onednn import fp32_matmul_precision, set_fp32_matmul_precision
from mtlora.train.model import attention
from mtlora.train.model.attention import NAME, products, products_are_faster, use_own_attention

SEEN = torch.ones(2, 1, 5, 5, dtype=torch.bool)
SEEN[1, ..., 3:] = False
ADDED = torch.zeros(2, 1, 1, 5, dtype=torch.double).masked_fill(~SEEN[:, :, :1], -1e9)
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}


def answer_and_gradients(function: object, **arguments: object) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(2, 3, 5, 4, dtype=torch.double, generator=generator).requires_grad_() for _ in range(3)]
    torch.manual_seed(7)
    answer = function(*factors, **arguments)  # type: ignore[operator]
    answer.square().sum().backward()
    return [answer.detach(), *(factor.grad for factor in factors if factor.grad is not None)]


@pytest.mark.parametrize(
    ("mask", "scale", "is_causal", "rate"),
    [
        (None, None, False, 0.0),
        (SEEN, None, False, 0.0),
        (ADDED, 0.3, False, 0.0),
        (None, None, True, 0.0),
        (SEEN, None, False, 0.5),
        (None, None, True, 0.1),
    ],
    ids=["plain", "booleans", "added, scaled", "causal", "dropout", "causal dropout"],
)
def test_products_equal_pytorch(mask: Tensor | None, scale: float | None, is_causal: bool, rate: float) -> None:
    common = {"scale": scale, "is_causal": is_causal}
    expected = answer_and_gradients(F.scaled_dot_product_attention, attn_mask=mask, dropout_p=rate, **common)
    ours = answer_and_gradients(products, mask=mask, dropout=rate, **common)
    assert len(ours) == 4
    for one, other in zip(ours, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_grouped_queries() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 3, 8, dtype=torch.double), torch.randn(1, 2, 3, 8, dtype=torch.double)
    expected = F.scaled_dot_product_attention(query, key, key, enable_gqa=True)
    assert torch.allclose(products(query, key, key), expected)


def test_a_fully_masked_query_is_finite_and_leaves_the_others_alone() -> None:
    mask = SEEN.expand(2, 1, 5, 5).clone()
    mask[0, :, 0] = False  # padding on the left
    expected = answer_and_gradients(F.scaled_dot_product_attention, attn_mask=mask)[0]
    ours = answer_and_gradients(products, mask=mask)
    assert all(torch.isfinite(tensor).all() for tensor in ours)
    assert torch.allclose(ours[0][0, :, 1:], expected[0, :, 1:])
    assert torch.allclose(ours[0][1], expected[1])


def test_products_are_used_on_a_cpu_that_multiplies_through_onednn() -> None:
    before = fp32_matmul_precision()
    try:
        set_fp32_matmul_precision("bf16")
        assert products_are_faster(torch.device("cpu"))
        assert not products_are_faster(torch.device("cuda"))
        set_fp32_matmul_precision("ieee")
        assert not products_are_faster(torch.device("cpu"))
    finally:
        set_fp32_matmul_precision(before)


def random_model(settings: PretrainedConfig, kind: type = AutoModelForCausalLM) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = kind.from_config(settings).double()  # type: ignore[attr-defined]
    return model


@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        BertConfig(**SHAPE, intermediate_size=64, is_decoder=False),
        GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50),
        LlamaConfig(**SHAPE, intermediate_size=64, num_key_value_heads=2),
    ],
    ids=lambda settings: settings.model_type,
)
def test_models_compute_as_with_the_attention_of_transformers(
    settings: PretrainedConfig, padded: bool, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against `eager`, which shares no code with ours; without dropout, which `test_dropout` covers."""
    kind = AutoModelForSequenceClassification if settings.model_type == "bert" else AutoModelForCausalLM
    model = random_model(settings, kind)
    ours, theirs = model.eval(), copy.deepcopy(model)
    use_own_attention(ours)
    theirs.set_attn_implementation("eager")
    assert ours.config._attn_implementation == NAME
    used = []
    monkeypatch.setattr(attention, "products_are_faster", lambda device: faster)
    monkeypatch.setattr(attention, "products", lambda *args: used.append(1) or products(*args))
    ids = torch.randint(5, 50, (3, 7))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 4:] = 0
    answers = [m(input_ids=ids, attention_mask=mask).logits for m in (ours, theirs)]
    assert len(used) == 2 * faster
    real = mask.bool() if answers[0].dim() == 3 else slice(None)  # what stands on padding is unused
    for logits in answers:
        logits[real].square().sum().backward()
    error = 1e-5 if settings.model_type == "llama" else 1e-9  # Llama's norms compute in float32
    assert torch.allclose(answers[0][real], answers[1][real], rtol=error, atol=error)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.allclose(p.grad, q.grad, rtol=error, atol=error), name


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (DebertaV2Config(**SHAPE, intermediate_size=64), AutoModelForSequenceClassification),
        (
            GPTNeoConfig(hidden_size=32, num_layers=2, num_heads=4, vocab_size=50, attention_types=[[["global"], 2]]),
            AutoModelForCausalLM,
        ),
    ],
    ids=["deberta", "gpt_neo"],
)
def test_a_model_without_a_place_for_it_is_left_alone(
    settings: PretrainedConfig, kind: type, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model(settings, kind).eval()
    ids = torch.randint(5, 50, (2, 7))
    before = model(input_ids=ids).logits
    use_own_attention(model)
    assert model.config._attn_implementation != NAME
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not caplog.records
