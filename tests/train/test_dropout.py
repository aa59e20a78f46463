"""One mechanism of dropout: exact rates, independent values, and in a cohort the masks of each run alone."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_runs import finish
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    OPTConfig,
    PretrainedConfig,
)

from mtlora.adapter import MTLoraConfig
from mtlora.base.errors import CohortUnsupported
from mtlora.train.model import attention
from mtlora.train.model.attention import use_own_attention
from mtlora.train.model.dropout import MaskedDropout, Masks, draw, scaled, use_masks

CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
Dropout = Callable[[Tensor, float], Tensor]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
MODELS: dict[str, tuple[Any, PretrainedConfig, str]] = {
    "bert": (AutoModelForSequenceClassification, BertConfig(**SHAPE, intermediate_size=64), r".*\.(query|value)"),
    "gpt2": (AutoModelForCausalLM, GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50), r".*\.attn\.c_attn"),
    "deberta": (  # its attention does not go through the interface
        AutoModelForSequenceClassification,
        DebertaV2Config(**SHAPE, intermediate_size=64, relative_attention=True, pos_att_type=["p2c", "c2p"]),
        r".*\.(query_proj|value_proj)",
    ),
    "opt": (  # calls F.dropout
        AutoModelForCausalLM,
        OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=32, dropout=0.1, attention_dropout=0.1),
        r".*\.(q_proj|v_proj)",
    ),
}


def random_model(name: str) -> PeftModel:
    kind, settings, targets = MODELS[name]
    torch.manual_seed(0)
    config = MTLoraConfig(r=2, structure="shim", mtlora_dropout=0.2, target_modules=targets, init_weights=False)
    settings = copy.deepcopy(settings)  # `use_own_attention` changes it
    return get_peft_model(kind.from_config(settings).double(), config).double().train()


def loss_and_gradients(model: nn.Module, causal: bool) -> list[Tensor]:
    ids = torch.randint(5, 50, (4, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    loss = model(input_ids=ids, attention_mask=mask, labels=ids if causal else ids[:, 0] % 2).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def reference(seed: int) -> Dropout:
    """Return dropout with the documented masks, written out in NumPy: (x, rate) -> dropout of x."""
    generator = torch.Generator().manual_seed(seed)

    def drop(x: Tensor, rate: float) -> Tensor:
        words = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        numbers = words.numpy().view(np.int16)[: x.numel()].astype(np.int64) + 2**15
        dropped = round(rate * 2**16)
        factors = np.where(numbers >= dropped, 2**16 / (2**16 - dropped), 0.0).reshape(x.shape)
        return x * torch.from_numpy(factors).to(x.dtype)

    return drop


def drop_by(drop: Dropout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `nn.Dropout` and PyTorch's attention drop by a function, and compute attention step by step."""

    def attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **more: Any) -> Tensor:
        scale = q.shape[-1] ** -0.5 if more.get("scale") is None else more["scale"]
        weights = q @ k.transpose(-1, -2) * scale
        if attn_mask is None and more.get("is_causal"):
            attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None:
            weights = weights.masked_fill(~attn_mask, -math.inf)
        return drop(weights.softmax(-1), more["dropout_p"]) @ v

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: drop(x, self.p) if self.training and self.p else x)


@pytest.mark.parametrize("faster", [False, True], ids=["fused", "products"])
@pytest.mark.parametrize("name", MODELS)
def test_a_run_alone_drops_by_the_documented_masks(name: str, faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "products_are_faster", lambda device: faster)
    ours, theirs = random_model(name), random_model(name)
    use_own_attention(ours.get_base_model())
    masks = Masks([0], CPU)
    use_masks(ours, masks)
    assert any(isinstance(module, MaskedDropout) for module in ours.modules())
    assert not any(type(module) is nn.Dropout for module in ours.modules())
    masks.begin_step([7])
    found = loss_and_gradients(ours, name in ("gpt2", "opt"))
    drop_by(reference(7), monkeypatch)
    masks.begin_step([7])  # for OPT, which draws from the global generator too
    expected = loss_and_gradients(theirs, name in ("gpt2", "opt"))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-14)


def test_a_model_that_calls_f_dropout_repeats_its_numbers_but_not_those_of_the_masks() -> None:
    masks, x, drawn = Masks([0], CPU), torch.ones(100, 100), []
    for _ in range(2):
        masks.begin_step([7])
        drawn.append((masks.drop(x, 0.5), F.dropout(x, 0.5), torch.empty(1000, dtype=torch.int64).random_()))
    assert all(map(torch.equal, *drawn))
    assert abs((drawn[0][0] == drawn[0][1]).double().mean() - 0.5) < 0.025  # five standard errors
    masks.begin_step([7])
    bits = (torch.empty(1000, dtype=torch.int64).random_(generator=g) for g in (None, masks.generators[0]))
    assert not torch.isin(*bits).any()


@pytest.mark.parametrize("faster", [False, True], ids=["fused", "products"])
def test_dropout_of_a_run_alone_is_never_that_of_pytorch(
    faster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers are other ones than the masks of a cohort."""

    def refuse(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("PyTorch's own dropout")

    def undropped(*arguments: Any, dropout_p: float, **more: Any) -> Tensor:
        return refuse() if dropout_p else kernel(*arguments, **more)  # evaluation uses PyTorch's kernel

    kernel = F.scaled_dot_product_attention

    monkeypatch.setattr(attention, "products_are_faster", lambda device: faster)
    monkeypatch.setattr(F, "dropout", refuse)
    monkeypatch.setattr(F, "scaled_dot_product_attention", undropped)
    record, _ = finish(tmp_path, "adapter.dropout=0.1", "train.epochs=1")
    assert record.status == "success"


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("rates", [(0.3, 0.3), (0.1, 0.3), (0.0, 0.3)], ids=str)
@pytest.mark.parametrize("name", DEVICES)
def test_a_run_alone_draws_the_masks_of_a_cohort(name: str, rates: tuple[float, float], kind: torch.dtype) -> None:
    device = torch.device(name)
    alone, together = Masks([0], device), Masks([1, 0], device)
    alone.begin_step([7])
    together.begin_step([8, 7])
    together.begin_batch(8, [7, 5])
    x = torch.randn(8, 7, 3, device=device).to(kind)
    for _ in range(2):  # the second time not from the start of the generators
        dropped = together.drop_each(x, rates)[4:]
        assert torch.equal(alone.drop(x[4:, :5], 0.3), dropped[:, :5])
        assert not dropped[:, 5:].any(), "no part of its batch alone"


def test_evaluation_drops_nothing() -> None:
    model = random_model("bert")
    use_masks(model, Masks([0], CPU))
    model.eval()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    expected = loss_and_gradients(model, False)[0]
    assert torch.equal(loss_and_gradients(model, False)[0], expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_masks_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("bert")
    before = copy.deepcopy(model)
    use_own_attention(model.get_base_model())
    for seed in (3, 7):
        masks = Masks([0], CPU)
        use_masks(model, masks)
        masks.begin_step([seed])
        loss = loss_and_gradients(model, False)[0]
    drop_by(reference(7), monkeypatch)
    assert torch.allclose(loss, loss_and_gradients(before, False)[0], rtol=1e-12)


class Layer(nn.Module):
    """Calls attention with dropout, as the layers of transformers do."""

    is_causal = False

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return attention.attention(self, query, key, value, mask, dropout=0.5)[0].transpose(1, 2)


def test_attention_draws_the_masks_of_each_run() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(4, 3, 5, 4, dtype=torch.double) for _ in range(3))
    mask = torch.ones(4, 1, 1, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False
    layer, masks = Layer(), Masks([0, 1], CPU)
    use_masks(layer, masks)
    masks.begin_step([7, 8])
    masks.begin_batch(4, [5, 5])
    ours = layer(q, k, v, mask)
    masks.end_batch()
    for rows, seed in ((slice(0, 2), 7), (slice(2, 4), 8)):
        weights = (q[rows] @ k[rows].mT / 2).masked_fill(~mask[rows], -math.inf).softmax(-1)
        assert torch.allclose(ours[rows], reference(seed)(weights, 0.5) @ v[rows])


def test_a_state_cut_to_the_first_token_has_masks_of_its_own_width() -> None:
    masks = Masks([0, 1], CPU)
    masks.begin_step([11, 12])
    masks.begin_batch(4, [4, 3])
    first, second = masks.drop(torch.ones(4, 1, 8), 0.5).view(2, 2, 1, 8)
    assert torch.equal(first, reference(11)(torch.ones(2, 1, 8), 0.5))
    assert torch.equal(second, reference(12)(torch.ones(2, 1, 8), 0.5))


def test_runs_of_one_seed_draw_the_same_masks_and_others_do_not() -> None:
    masks = Masks([0, 1, 0], CPU)
    masks.begin_step([11, 12, 11])
    masks.begin_batch(6, [4, 3, 4])
    first, second, third = masks.drop(torch.ones(6, 4, 8), 0.5).view(3, 2, 4, 8)
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
    assert torch.equal(first, reference(11)(torch.ones(2, 4, 8), 0.5))
    assert torch.equal(second[:, :3], reference(12)(torch.ones(2, 3, 8), 0.5)), "as wide as its own batch"
    assert not second[:, 3:].any()
    with pytest.raises(CohortUnsupported):
        masks.drop(torch.ones(9, 8), 0.5)


def test_numbers_drawn_elsewhere_are_noticed_in_a_cohort_only() -> None:
    for streams, raises in (([0], False), ([0, 0], True), ([0, 1], True)):
        masks = Masks(streams, CPU)
        masks.begin_step([11] * len(streams))
        masks.begin_batch(4, [3] * len(streams))
        masks.drop(torch.ones(4, 3, 8), 0.5)
        masks.end_batch()
        F.dropout(torch.ones(4, 3, 8), 0.5)
        if raises:
            with pytest.raises(CohortUnsupported, match=r"draws random numbers outside of its nn\.Dropout modules"):
                masks.end_batch()
        else:
            masks.end_batch()


def mask_of(rate: float, n: int, device: str = "cpu", seed: int = 5) -> np.ndarray:
    """Return a mask of n values, checked to be 0 and 1."""
    mask = torch.full((n,), 9.0, device=device)
    draw(mask, rate, torch.Generator(device).manual_seed(seed))
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    return mask.cpu().numpy()


@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.1, 0.3, 0.5, 0.9, 0.9999], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_the_share_of_dropped_values_is_the_rounded_rate(device: str, rate: float) -> None:
    n, exact = 2**21, round(rate * 65536) / 65536
    error = abs((1 - mask_of(rate, n, device)).sum() - n * exact)
    assert error < 5 * math.sqrt(n * exact * (1 - exact))


@pytest.mark.parametrize("rate", [0.1, 0.5], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_values_are_independent(device: str, rate: float) -> None:
    """Of neighbours, of the four values of a word, of neighbouring words, and of other seeds."""
    n = 2**20
    mask, other = mask_of(rate, n, device), mask_of(rate, n, device, seed=6)
    bound = 5 / math.sqrt(n // 4)  # five standard errors of a correlation of n / 4 pairs
    for lag in (*range(1, 17), 624, 1248, 2496, 4992):  # the state of PyTorch's generator is 624 words of 32 bits
        assert abs(np.corrcoef(mask[:-lag], mask[lag:])[0, 1]) < bound, lag
    assert np.abs(np.corrcoef(mask.reshape(-1, 4).T) - np.eye(4)).max() < bound
    assert abs(np.corrcoef(mask, other)[0, 1]) < bound
    places = mask.reshape(-1, 4).mean(0)
    assert np.abs(places - (1 - round(rate * 65536) / 65536)).max() < 5 * math.sqrt(rate * (1 - rate) / (n / 4))


@pytest.mark.parametrize("device", DEVICES)
def test_every_level_of_a_number_is_as_likely(device: str) -> None:
    """Rates of a few 1 / 65536 hit the lowest and the highest numbers as often as any other."""
    n = 2**22
    for levels in (1, 2, 5):
        for rate, of_few in ((levels / 65536, 0.0), (1 - levels / 65536, 1.0)):
            few, expected = (mask_of(rate, n, device) == of_few).sum(), n * levels / 65536
            assert abs(few - expected) < 5 * math.sqrt(expected), rate


def test_rates_of_zero_and_one_and_near_them() -> None:
    assert mask_of(0.0, 10_001).all()
    assert mask_of(2**-18, 10_001).all()
    assert not mask_of(1.0, 10_001).any()
    assert not mask_of(1 - 2**-18, 10_001).any()
    masks, x = Masks([0], CPU), torch.randn(3, 5)
    masks.begin_step([1])
    for rate in (0.0, 2**-18):
        assert torch.equal(masks.drop(x, rate), x)
    for rate in (1.0, 1 - 2**-18):
        assert torch.equal(masks.drop(x, rate), torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(1,), (3,), (5,), (1, 1, 7), (3, 5, 7), (2, 3, 5, 5), (0, 4)], ids=str)
def test_numbers_of_values_that_four_does_not_divide(shape: tuple[int, ...]) -> None:
    masks = Masks([0], CPU)
    masks.begin_step([3])
    drop = reference(3)
    for _ in range(3):  # each call begins with a new word
        assert torch.equal(masks.drop(torch.ones(shape), 0.3), drop(torch.ones(shape), 0.3))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3], ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_mean_scale_is_exact_in_any_precision(kind: torch.dtype, rate: float) -> None:
    """A mask of bf16 with 1 / 0.9 in it is 0.16% low."""
    masks = Masks([0], CPU)
    masks.begin_step([3])
    x = (1 + torch.rand(200, 500, generator=torch.Generator().manual_seed(0))).to(kind).requires_grad_()
    dropped = masks.drop(x, rate)
    kept, expected = dropped.detach() != 0, 65536 / (65536 - round(rate * 65536))
    assert dropped.dtype == kind
    ratios = dropped.detach()[kept].double() / x.detach()[kept].double()
    assert ratios.mean().item() == pytest.approx(expected, rel=2e-4)
    ulp = torch.finfo(kind).eps
    assert torch.allclose(ratios, torch.full_like(ratios, expected), rtol=ulp, atol=0), "0, or this scale"
    dropped.backward(x.detach())
    assert x.grad is not None
    assert torch.equal(x.grad, dropped.detach()), "the gradient has the same mask and scale"


def test_runs_of_different_rates_have_their_own_exact_scales_in_bf16() -> None:
    x = (1 + torch.rand(3, 100, 100, generator=torch.Generator().manual_seed(0))).bfloat16()
    rates = (0.0, 0.1, 0.3)
    ratios = (scaled(x.clone(), rates).double() / x.double()).mean((1, 2))
    for run, rate in enumerate(rates):
        assert ratios[run].item() == pytest.approx(65536 / (65536 - round(rate * 65536)), rel=1e-3)
        assert torch.equal(scaled(x.clone(), rates)[run], scaled(x[run : run + 1].clone(), [rate])[0])


def test_the_global_generator_is_left_alone() -> None:
    masks = Masks([0], CPU)
    masks.begin_step([3])
    state = torch.get_rng_state()
    masks.drop(torch.ones(10, 10), 0.3)
    assert torch.equal(torch.get_rng_state(), state)
