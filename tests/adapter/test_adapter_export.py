"""The export to plain LoRA computes the same, in PEFT without this package."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adapter_models import KINDS, STRUCTURES, Toy, adapted, ids, layer_of, toy
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from mtlora import save_as_lora
from mtlora.adapter import MTLoraConfig, MTLoraLayer

ALL = [(structure, kind) for structure in STRUCTURES for kind in KINDS]
MIXED: dict[str, Any] = {
    "r": 2,
    "mtlora_alpha": 3,
    "init_weights": False,
    "target_modules": ["embedding", "linear", "conv"],
    "modules_to_save": ["head"],
    "fused_modules": {"conv": [True, False, True]},
    "rank_pattern": {"linear": 4},
    "alpha_pattern": {"linear": 5, "embedding": 7},
    "mtlora_dropout": 0.1,
}


def reloaded(model: PeftModel, folder: Path, base: nn.Module) -> PeftModel:
    """Save the model as LoRA and load that into a fresh base model."""
    save_as_lora(model, folder)
    return PeftModel.from_pretrained(base, folder)


def check_plain_lora(model: nn.Module) -> None:
    kinds = {type(module) for module in model.modules()}
    assert any(issubclass(kind, LoraLayer) for kind in kinds)
    assert not any(issubclass(kind, MTLoraLayer) for kind in kinds)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(("structure", "kind"), ALL)
def test_every_structure_and_layer_kind(structure: str, kind: str, rslora: bool, tmp_path: Path) -> None:
    model = adapted(structure, kind, use_rslora=rslora).eval()
    lora = reloaded(model, tmp_path, toy())
    check_plain_lora(lora)
    torch.testing.assert_close(lora(ids()), model(ids()))
    torch.testing.assert_close(lora.merge_and_unload()(ids()), model(ids()))


@pytest.mark.parametrize("fused_transform", ["block", "joint"])
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("bias", ["none", "all", "mtlora_only"])
def test_mixed_targets_patterns_heads_and_biases(fused_transform: str, rslora: bool, bias: str, tmp_path: Path) -> None:
    config = MTLoraConfig(structure="ctcm", use_rslora=rslora, fused_transform=fused_transform, bias=bias, **MIXED)
    torch.manual_seed(1)
    model = get_peft_model(toy(), config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "mtlora" not in name:  # as training would: the new head, the biases
                parameter.add_(0.5)
    lora = reloaded(model, tmp_path, toy())
    check_plain_lora(lora)
    torch.testing.assert_close(lora(ids()), model(ids()))
    scalings = {
        name: layer.scaling["default"] for name, layer in model.named_modules() if isinstance(layer, MTLoraLayer)
    }
    for name, layer in lora.named_modules():
        if isinstance(layer, LoraLayer):
            assert layer.scaling["default"] == pytest.approx(scalings[name], rel=1e-15)
    assert lora.peft_config["default"].lora_dropout == 0.1
    assert lora.peft_config["default"].bias == bias.replace("mtlora", "lora")


def test_most_common_rank_becomes_the_default_and_the_rest_goes_to_patterns() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Linear(6, 6)  # the same last name as modules inside: patterns must tell them apart
            self.a, self.b = Toy(), Toy()

    config = MTLoraConfig(
        r=2, mtlora_alpha=3, target_modules=["conv", "linear"], fused_modules={"conv": [True, True, False]},
        rank_pattern={"^conv": 5},
    )  # fmt: skip
    lora, tensors = get_peft_model(Nested(), config).to_lora()
    assert (lora.r, lora.lora_alpha) == (2, 3)
    assert lora.rank_pattern == {"^conv": 10, r"^a\.conv": 4, r"^b\.conv": 4}  # two slices each
    assert lora.alpha_pattern == {"^conv": 6, r"^a\.conv": 6, r"^b\.conv": 6}
    ranks = {key: tensor.shape[0] for key, tensor in tensors.items() if "lora_A" in key}
    plain = get_peft_model(Nested(), lora)
    for name, layer in plain.named_modules():
        if isinstance(layer, LoraLayer):
            assert layer.r["default"] == ranks[f"{name}.lora_A.weight"]


def test_reload_in_a_process_that_never_imports_this_package(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=24, n_head=2, vocab_size=31, bos_token_id=0, eos_token_id=0))
    base.save_pretrained(tmp_path / "base")
    config = MTLoraConfig(
        structure="icfm",
        init_weights=False,
        target_modules=["c_attn", "mlp.c_fc", "wte"],
        fused_modules={"c_attn": [True, False, True]},
        fused_transform="joint",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config).eval()
    model.save_as_lora(tmp_path / "lora")
    code = f"""
import sys, torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained({str(tmp_path / "lora")!r})
logits = model(torch.arange(15).view(3, 5) % 11).logits
assert not any(name.partition(".")[0] == "mtlora" for name in sys.modules)
torch.save(logits, {str(tmp_path / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(ids()).logits)
    saved = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert saved["peft_type"] == "LORA"
    assert AutoConfig.from_pretrained(saved["base_model_name_or_path"]).n_embd == 24


def test_the_files_have_one_mode(tmp_path: Path) -> None:
    save_as_lora(adapted("shim", "linear"), tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_the_adapter_that_is_named_is_exported(tmp_path: Path) -> None:
    model = adapted("shim")
    model.add_adapter("other", MTLoraConfig(r=3, structure="dtsm", init_weights=False, target_modules=["conv"]))
    model = model.double()
    save_as_lora(model, tmp_path, adapter_name="other")
    model.set_adapter("other")
    torch.testing.assert_close(PeftModel.from_pretrained(toy(), tmp_path)(ids()), model(ids()))


def test_export_leaves_the_model_alone_and_shares_no_memory() -> None:
    model = adapted("ctcm")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    config, tensors = model.to_lora()
    assert isinstance(config, LoraConfig)
    for tensor in tensors.values():
        tensor.zero_()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(tensor.requires_grad for tensor in tensors.values())


def test_half_precision_adapter_keeps_its_dtype() -> None:
    _, tensors = adapted("ctcm").to(torch.bfloat16).to_lora()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_unknown_and_merged_adapters_are_refused() -> None:
    model = adapted("shim")
    with pytest.raises(ValueError, match=r"no adapter 'typo'; the model has \['default'\]"):
        model.to_lora("typo")
    model.merge_adapter()
    with pytest.raises(ValueError, match="merged adapters; call `unmerge_adapter`"):
        model.to_lora()


def test_peft_conversion_by_svd_agrees() -> None:
    """`peft.convert_to_lora` approximates the same update from get_delta_weight; at full rank it must match."""
    from peft import convert_to_lora

    model = adapted("dtsm", "conv")
    _, theirs = convert_to_lora(model, rank=2)
    config, ours = model.to_lora()
    name = "base_model.model.conv.lora_{}.weight"
    torch.testing.assert_close(
        theirs[name.format("B")].double() @ theirs[name.format("A")].double(),
        config.lora_alpha / config.r * ours[name.format("B")] @ ours[name.format("A")],
        rtol=1e-4,
        atol=1e-5,
    )
    assert layer_of(model).supports_lora_conversion()
