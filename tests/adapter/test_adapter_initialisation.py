"""Starting values: their distributions, their independence of each other, and the parameters they fill."""

import math

import pytest
import torch
from helpers.adapter_models import KINDS, STRUCTURES, adapted, ids, layer_of, toy
from peft import get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2Model

from mtlora.adapter import MTLoraConfig, MTLoraLayer
from mtlora.adapter.transforms import STRUCTURES as TABLE

R, IN, OUT = 32, 300, 200


def big_layer(structure: str, init: bool | str, fused: bool = False, kind: str = "linear") -> MTLoraLayer:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Embedding(IN, OUT) if kind == "embedding" else nn.Linear(IN, OUT))
    masks = {"0": [True, False, True, True]} if fused else None
    config = MTLoraConfig(r=R, structure=structure, init_weights=init, target_modules=["0"], fused_modules=masks)
    return layer_of(get_peft_model(base, config))


def values(layer: MTLoraLayer, letter: str) -> torch.Tensor:
    return layer.weight_of(letter, "default").data


@pytest.mark.parametrize("init", [True, "official"])
@pytest.mark.parametrize("fused", [False, True])
def test_official(init: bool | str, fused: bool) -> None:
    """Kaiming uniform with a = sqrt(5) is uniform in +-1/sqrt(fan-in), and the fan-in of every T is r."""
    layer = big_layer("ctcm", init, fused)
    for letter, fan_in in {"A": IN, "C": R, "D": R}.items():
        bound = 1 / math.sqrt(fan_in)
        assert 0.97 * bound < values(layer, letter).abs().max() <= bound
        assert values(layer, letter).std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not values(layer, "B").any()
    assert not torch.equal(values(layer, "C"), values(layer, "D"))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_identity_starts_at_t_equal_i(structure: str, fused: bool) -> None:
    layer = big_layer(structure, "identity", fused)
    t = layer.get_transform("default")
    if structure == "none":
        assert t is None
    else:
        torch.testing.assert_close(t, torch.eye(3 * R if fused else R))
    assert values(layer, "A").std() == pytest.approx(1 / R, rel=0.05)
    assert not values(layer, "B").any()


@pytest.mark.parametrize("structure", ["shim", "dtsm"])
def test_zero_t(structure: str) -> None:
    layer = big_layer(structure, "zero_t")
    for letter in "AB":
        assert values(layer, letter).std() == pytest.approx(0.02, rel=0.05)
    assert all(not values(layer, letter).any() for letter in TABLE[structure].factors)
    assert not layer.get_delta_weight("default").any()


@pytest.mark.parametrize("init", [True, "identity"])
def test_embedding_starts_with_a_zero_and_b_normal_as_in_lora(init: bool | str) -> None:
    layer = big_layer("shim", init, kind="embedding")
    assert not values(layer, "A").any()
    assert values(layer, "B").std() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_only_false_changes_the_output(structure: str, kind: str) -> None:
    for init in [True, "identity", "zero_t", False]:
        if init == "zero_t" and structure not in ("shim", "dtsm"):
            continue
        unchanged = torch.equal(adapted(structure, kind, init_weights=init)(ids()), toy()(ids()))
        assert unchanged is (init is not False), init


def streams(seed: int):  # type: ignore[no-untyped-def]
    return lambda letter: torch.Generator().manual_seed(seed * 1000 + ord(letter))


@pytest.mark.parametrize("kind", ["linear", "fused conv, joint", "embedding"])
@pytest.mark.parametrize("init", [True, "identity", False])
def test_each_matrix_has_its_own_stream(kind: str, init: bool | str) -> None:
    drawn = {}
    for structure in STRUCTURES:
        layer = layer_of(adapted(structure, kind))
        torch.manual_seed(STRUCTURES.index(structure))
        state = torch.get_rng_state()
        layer.reset_mtlora_parameters("default", init, generators=streams(7))
        assert torch.equal(torch.get_rng_state(), state)  # the global generator is not touched
        drawn[structure] = layer
    for structure in STRUCTURES:
        assert torch.equal(values(drawn[structure], "A"), values(drawn["none"], "A"))
        assert torch.equal(values(drawn[structure], "B"), values(drawn["none"], "B"))
    if init != "identity":
        assert torch.equal(values(drawn["ctcm"], "D"), values(drawn["dtsm"], "D"))
        assert not torch.equal(values(drawn["ctcm"], "C"), values(drawn["ctcm"], "D"))


def test_dtype_does_not_change_what_is_drawn() -> None:
    layer = layer_of(adapted("shim"))
    layer.reset_mtlora_parameters("default", True, generators=streams(3))
    drawn = values(layer, "A").clone()
    layer.half().reset_mtlora_parameters("default", True, generators=streams(3))
    assert torch.equal(values(layer, "A"), drawn.half())


def test_reset_of_an_unknown_adapter_does_nothing() -> None:
    layer = layer_of(adapted())
    before = values(layer, "A").clone()
    layer.reset_mtlora_parameters("other", True)
    assert torch.equal(values(layer, "A"), before)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"structure": "none", "fused_modules": {"c_attn": [True, False, True]}}, 393_216),
        ({"structure": "shim", "fused_modules": {"c_attn": [True, False, True]}}, 394_752),
        ({"structure": "icfm", "fused_modules": {"c_attn": [True, False, True]}}, 394_752),
        (
            {"structure": "shim", "fused_modules": {"c_attn": [True] * 3}, "target_modules": ["c_attn", "c_fc"]},
            1_085_184,
        ),
        (
            {"structure": "icfm", "fused_modules": {"c_attn": [True] * 3}, "target_modules": ["c_attn", "c_fc"]},
            1_085_184,
        ),
    ],
)
def test_parameter_counts_of_gpt2_medium(options: dict, parameters: int) -> None:
    """The counts of LoRA and of the official MTLoRA code on GPT-2 medium at r = 4."""
    values = {"target_modules": ["c_attn"], "fused_transform": "joint", "fan_in_fan_out": True, **options}
    with torch.device("meta"):
        model = GPT2Model(GPT2Config(n_embd=1024, n_layer=24, n_head=16))
        model = get_peft_model(model, MTLoraConfig(r=4, **values))
    assert model.get_nb_trainable_parameters()[0] == parameters
