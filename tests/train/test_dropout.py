"""One mechanism of dropout: a run alone draws the numbers of PyTorch on the CPU, and in a cohort the same."""

import copy
from pathlib import Path
from typing import Any

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
from mtlora.train.model.dropout import MaskedDropout, Masks, use_masks

CPU = torch.device("cpu")
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
    return get_peft_model(kind.from_config(settings).double(), config).double().train()


def loss_and_gradients(model: nn.Module, causal: bool) -> list[Tensor]:
    ids = torch.randint(5, 50, (4, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    loss = model(input_ids=ids, attention_mask=mask, labels=ids if causal else ids[:, 0] % 2).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("faster", [False, True], ids=["fused", "products"])
@pytest.mark.parametrize("name", MODELS)
def test_a_run_alone_draws_the_numbers_of_pytorch(name: str, faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "products_are_faster", lambda device: faster)
    ours, theirs = random_model(name), random_model(name)
    use_own_attention(ours.get_base_model())
    masks = Masks([0], CPU)
    use_masks(ours, masks)
    assert any(isinstance(module, MaskedDropout) for module in ours.modules())
    assert not any(type(module) is nn.Dropout for module in ours.modules())
    masks.begin_step([7])
    found = loss_and_gradients(ours, name in ("gpt2", "opt"))
    torch.manual_seed(7)
    expected = loss_and_gradients(theirs, name in ("gpt2", "opt"))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-14) if faster else torch.equal(one, other)


def test_dropout_of_a_run_alone_is_never_that_of_a_fused_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU those draw other numbers than the masks of a cohort."""

    def refuse(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("PyTorch's own dropout")

    monkeypatch.setattr(attention, "products_are_faster", lambda device: True)
    monkeypatch.setattr(F, "dropout", refuse)
    monkeypatch.setattr(F, "scaled_dot_product_attention", refuse)
    record, _ = finish(tmp_path, "adapter.dropout=0.1", "train.epochs=1")
    assert record.status == "success"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_run_alone_draws_the_masks_of_a_cohort() -> None:
    device = torch.device("cuda")
    alone, together = Masks([0], device), Masks([1, 0], device)
    alone.begin_step([7])
    together.begin_step([8, 7])
    together.begin_batch(8, [5, 5])
    x = torch.ones(4, 5, 6, device=device)
    assert torch.equal(alone.drop(x, 0.3), together.drop(torch.cat([x, x]), 0.3)[4:])


def test_evaluation_drops_nothing() -> None:
    model = random_model("bert")
    use_masks(model, Masks([0], CPU))
    model.eval()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    expected = loss_and_gradients(model, False)[0]
    assert torch.equal(loss_and_gradients(model, False)[0], expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_masks_can_be_replaced() -> None:
    model = random_model("bert")
    before = copy.deepcopy(model)
    for seed in (3, 7):
        masks = Masks([0], CPU)
        use_masks(model, masks)
        masks.begin_step([seed])
        loss = loss_and_gradients(model, False)[0]
    torch.manual_seed(7)
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
        torch.manual_seed(seed)
        expected = F.scaled_dot_product_attention(q[rows], k[rows], v[rows], attn_mask=mask[rows], dropout_p=0.5)
        assert torch.allclose(ours[rows], expected)


def test_a_state_cut_to_the_first_token_has_masks_of_its_own_width() -> None:
    masks = Masks([0, 1], CPU)
    masks.begin_step([11, 12])
    masks.begin_batch(4, [4, 3])
    first, second = masks.drop(torch.ones(4, 1, 8), 0.5).view(2, 2, 1, 8)
    torch.manual_seed(11)
    assert torch.equal(first, F.dropout(torch.ones(2, 1, 8), 0.5))
    torch.manual_seed(12)
    assert torch.equal(second, F.dropout(torch.ones(2, 1, 8), 0.5))


def test_runs_of_one_seed_draw_the_same_masks_and_others_do_not() -> None:
    masks = Masks([0, 1, 0], CPU)
    masks.begin_step([11, 12, 11])
    masks.begin_batch(6, [4, 3, 4])
    first, second, third = masks.drop(torch.ones(6, 4, 8), 0.5).view(3, 2, 4, 8)
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
    torch.manual_seed(12)
    assert torch.equal(second[:, :3], F.dropout(torch.ones(2, 3, 8), 0.5)), "as wide as its own batch"
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
