"""What a configuration and a model accept, what they refuse and with which words."""

import json
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
import torch
from helpers.adapter_models import Toy, adapted, layer_of, toy
from peft import PeftConfig, PeftType, get_peft_model
from torch import nn

from mtlora.adapter import MTLoraConfig, MTLoraModel

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "r zero": ({"r": 0}, "`r` must be a positive integer, got 0"),
    "r negative": ({"r": -3}, "`r` must be a positive integer, got -3"),
    "r fraction": ({"r": 2.5}, "`r` must be a positive integer, got 2.5"),
    "r bool": ({"r": True}, "`r` must be a positive integer, got True"),
    "rank pattern": ({"rank_pattern": {"q": 0}}, r"`rank_pattern\['q'\]` must be a positive integer, got 0"),
    "alpha zero": ({"mtlora_alpha": 0}, "`mtlora_alpha` must be a number greater than 0, got 0"),
    "alpha nan": ({"mtlora_alpha": float("nan")}, "`mtlora_alpha` must be a number greater than 0, got nan"),
    "alpha text": ({"mtlora_alpha": "16"}, "`mtlora_alpha` must be a number greater than 0, got '16'"),
    "alpha pattern": ({"alpha_pattern": {"q": -1}}, r"`alpha_pattern\['q'\]` must be a number greater than 0, got -1"),
    "dropout negative": ({"mtlora_dropout": -0.1}, "`mtlora_dropout` must be .* got -0.1"),
    "dropout one": ({"mtlora_dropout": 1.0}, "`mtlora_dropout` must be .* got 1.0"),
    "structure": (
        {"structure": "SHIM"},
        "`structure` must be one of .*'none', 'shim', 'icfm', 'ctcm', 'dtsm'.*, got 'SHIM'",
    ),
    "init": (
        {"init_weights": "gauss"},
        "one of True, False, 'official', 'identity_t', 'identity', 'zero_t', got 'gauss'",
    ),
    "init integer": ({"init_weights": 1}, "`init_weights` must be one of .*, got 1"),
    "transform": ({"fused_transform": "full"}, "`fused_transform` must be one of 'block', 'joint', got 'full'"),
    "bias": ({"bias": "lora_only"}, "`bias` must be one of 'none', 'all', 'mtlora_only', got 'lora_only'"),
    "zero_t icfm": ({"structure": "icfm", "init_weights": "zero_t"}, "gradients are exactly 0"),
    "zero_t ctcm": ({"structure": "ctcm", "init_weights": "zero_t"}, "gradients are exactly 0"),
    "zero_t none": ({"structure": "none", "init_weights": "zero_t"}, "`structure='none'` fixes T = I"),
    "mask empty": ({"fused_modules": {"q": []}}, r"`fused_modules\['q'\]` must be a list of at least two booleans"),
    "mask single": ({"fused_modules": {"q": [True]}}, "at least two booleans"),
    "mask none": ({"fused_modules": {"q": [False, False]}}, "at least one of them True"),
    "mask integers": ({"fused_modules": {"q": [1, 0, 1]}}, r"got \[1, 0, 1\]"),
    "mask text": ({"fused_modules": {"q": "qv"}}, "got 'qv'"),
    "layers and regex": ({"target_modules": "q", "layers_to_transform": [1]}, "`layers_to_transform` cannot be used"),
    "pattern and regex": ({"target_modules": "q", "layers_pattern": "h"}, "`layers_pattern` cannot be used"),
    "pattern alone": ({"target_modules": ["q"], "layers_pattern": "h"}, "`layers_to_transform` must also be specified"),
    "task": ({"task_type": "SEQ_CLSS"}, "Invalid task type: 'SEQ_CLSS'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_value_is_one_clear_line(name: str) -> None:
    values, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        MTLoraConfig(**values)
    assert "\n" not in str(error.value)


class Odd(nn.Module):
    """Modules that MTLoRA cannot adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.clipped = nn.Embedding(5, 4, max_norm=1.0)
        self.whole = nn.Linear(4, 4)
        self.whole.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("conv", "module 'conv' of type Conv2d: only nn.Linear, transformers' Conv1D and nn.Embedding are supported"),
        ("norm", "module 'norm' of type LayerNorm"),
        ("attention", "module 'attention' of type MultiheadAttention"),
        ("out_proj", "module 'attention.out_proj' .* reads the weight of its projections directly"),
        ("clipped", "module 'clipped' of type Embedding: .* max_norm"),
        ("whole", "module 'whole' of type Linear: of the quantised layers only"),
        ("missing", "not found in the base model"),
    ],
)
def test_module_that_cannot_be_adapted_is_named(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_peft_model(Odd(), MTLoraConfig(target_modules=[target]))


@pytest.mark.parametrize(
    ("fused", "message"),
    [
        ({"linaer": [True, False]}, "'linaer', but no target module has that name"),
        ({"conv": [True, False, True]}, "'conv', but no target module has that name"),
        ({"linear": [True] * 5}, "'linear' into 5 slices, but its 12 outputs are not divisible"),
        ({"embedding": [True, False]}, "'embedding', but an embedding has no slices"),
    ],
)
def test_fused_modules_that_do_not_fit_the_model_are_named(fused: dict[str, list[bool]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_peft_model(Toy(), MTLoraConfig(target_modules=["linear", "embedding"], fused_modules=fused))


def test_slices_are_checked_before_anything_is_injected() -> None:
    model = get_peft_model(Toy(), MTLoraConfig(target_modules=["linear"]))
    bad = MTLoraConfig(target_modules=["linear"], fused_modules={"linear": [True] * 5})
    with pytest.raises(ValueError, match="not divisible"):
        model.add_adapter("bad", bad)
    assert all("bad" not in name for name, _ in model.named_parameters())


def test_config_is_json_and_survives_a_round_trip(tmp_path: Any) -> None:
    config = MTLoraConfig(
        r=4,
        structure="dtsm",
        init_weights="identity",
        target_modules=["c_fc", "c_attn"],
        fused_modules={"c_attn": [True, False, True]},
        rank_pattern={"c_fc": 2},
        task_type="CAUSAL_LM",
    )
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["peft_type"] == "MTLORA"
    assert saved["target_modules"] == ["c_attn", "c_fc"]
    assert PeftConfig.from_pretrained(tmp_path) == config
    assert MTLoraConfig(**config.to_dict()) == config


def test_every_field_has_its_text_in_the_docstring_as_help() -> None:
    texts = {item.name: item.metadata.get("help", "") for item in fields(MTLoraConfig)}
    assert set(texts) >= set(MTLoraConfig.__annotations__)
    assert all(texts.values()), "those that PEFT's own base class defines too"
    assert texts["r"] == "Rank, at least 1. A is (r, in), B is (out, r), T is (r, r)."
    assert texts["exclude_modules"] == "Names or a regular expression of the modules to leave out."
    documented = " ".join((MTLoraConfig.__doc__ or "").split())
    assert all(f"{name}: {texts[name]}" in documented for name in MTLoraConfig.__annotations__)
    assert texts["bias"].endswith("(those of adapted modules).")


def test_method_is_registered() -> None:
    assert PeftType("MTLORA") is PeftType.MTLORA is MTLoraConfig().peft_type  # type: ignore[attr-defined]
    assert PeftType.MTLORA in list(PeftType)  # type: ignore[attr-defined]
    assert isinstance(adapted().base_model, MTLoraModel)


def test_package_import_needs_no_torch_and_the_name_registers_the_method() -> None:
    code = """
import sys, mtlora
assert "torch" not in sys.modules and "peft" not in sys.modules
assert mtlora.__version__
from mtlora import MTLoraConfig
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType
assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType("MTLORA")] is MTLoraConfig
try:
    mtlora.nonsense
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'mtlora' has no attribute 'nonsense'\n"


def test_rank_and_alpha_patterns_reach_their_layers() -> None:
    config = MTLoraConfig(
        r=4, target_modules=["linear", "conv"], rank_pattern={"^conv": 2}, alpha_pattern={"linear": 12.0}
    )
    model = get_peft_model(toy(), config).base_model.model
    assert model.linear.weight_of("A", "default").shape == (4, 6)
    assert model.conv.weight_of("A", "default").shape == (2, 12)
    assert model.linear.scaling["default"] == 12 / 4
    assert model.conv.scaling["default"] == 8 / 2


def test_conv1d_sets_fan_in_fan_out_with_a_warning() -> None:
    config = MTLoraConfig(target_modules=["conv", "linear"])
    with pytest.warns(UserWarning, match="conv is a `Conv1D`: setting fan_in_fan_out to True"):
        model = get_peft_model(toy(), config).base_model.model
    assert config.fan_in_fan_out
    assert model.conv.fan_in_fan_out
    assert not model.linear.fan_in_fan_out  # each layer follows its own type


def test_bias_mtlora_only_trains_the_biases_of_adapted_layers() -> None:
    model = adapted(bias="mtlora_only")
    trained = {name for name, p in model.named_parameters() if p.requires_grad and name.endswith("bias")}
    assert trained == {"base_model.model.linear.base_layer.bias"}
    assert layer_of(model).bias is model.base_model.model.linear.base_layer.bias
