"""Everything else a PEFT user does with adapters: several of them, saving, loading, dtypes, mixed batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adapter_models import KINDS, STRUCTURES, Toy, adapted, delta_by_hand, ids, layer_of, toy
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from mtlora.adapter import MTLoraConfig, MTLoraLayer, MTLoraModel

ALL = [(structure, kind) for structure in STRUCTURES for kind in KINDS]


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(n_layer=2, n_embd=24, n_head=2, vocab_size=31, n_positions=16, bos_token_id=0, eos_token_id=0)
    ).eval()


def two_adapters() -> PeftModel:
    """The adapters "default" (icfm, linear and conv) and "other" (dtsm, fused conv and embedding, rank 3)."""
    model = adapted("icfm", target_modules=["linear", "conv"])
    config = MTLoraConfig(
        r=3,
        structure="dtsm",
        init_weights=False,
        target_modules=["conv", "embedding"],
        fused_modules={"conv": [True, False, True]},
        fused_transform="joint",
    )
    model.add_adapter("other", config)
    return model.double().eval()


def output_of(model: PeftModel, adapter: str) -> torch.Tensor:
    model.set_adapter(adapter)
    return model(ids()).detach()


@pytest.mark.parametrize(("structure", "kind"), ALL)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_save_and_load(structure: str, kind: str, low_cpu_mem_usage: bool, tmp_path: Path) -> None:
    model = adapted(structure, kind)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    letters = {key[-len("A.weight")] for key in load_file(tmp_path / "adapter_model.safetensors")}
    factors = {"none": "", "shim": "C", "icfm": "C", "ctcm": "CD", "dtsm": "CD"}[structure]
    assert letters == {"A", "B", *factors}

    loaded = PeftModel.from_pretrained(toy(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert isinstance(loaded.base_model, MTLoraModel)
    assert all(p.device.type == "cpu" and not p.requires_grad for p in loaded.parameters())
    torch.testing.assert_close(loaded(ids()), model(ids()), rtol=0, atol=0)


def test_auto_model_finds_base_model_and_adapter(tmp_path: Path) -> None:
    tiny_gpt2().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = MTLoraConfig(
        structure="ctcm",
        init_weights=False,
        fused_modules={"c_attn": [True, False, True]},
        task_type="CAUSAL_LM",
        fan_in_fan_out=True,
    )  # no target_modules: PEFT's default for GPT-2 is c_attn
    model = get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(loaded(ids()).logits, model(ids()).logits)
    generated = loaded.generate(input_ids=ids(), max_new_tokens=3, do_sample=False)
    torch.testing.assert_close(generated, model.merge_and_unload().generate(ids(), max_new_tokens=3, do_sample=False))


def test_adapters_of_different_structures_live_side_by_side() -> None:
    model = two_adapters()
    base, first, second = toy()(ids()), output_of(model, "default"), output_of(model, "other")
    assert not torch.allclose(first, base)
    assert not torch.allclose(second, base)
    with model.disable_adapter():
        assert torch.equal(model(ids()), base)

    model.base_model.set_adapter(["default", "other"])
    both = model(ids())
    conv = model.base_model.model.conv
    delta = conv.get_delta_weight("default") + conv.get_delta_weight("other")
    x = torch.randn(4, 12, dtype=torch.float64)
    torch.testing.assert_close(conv(x), conv.base_layer(x) + x @ delta)
    torch.testing.assert_close(model.merge_and_unload()(ids()), both)


def test_only_the_active_adapter_trains() -> None:
    model = two_adapters()
    for active, inactive in [("default", "other"), ("other", "default")]:
        model.set_adapter(active)
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad is (name.endswith(f".{active}.weight")), name
            assert not (parameter.requires_grad and inactive in name)


def test_delete_adapter() -> None:
    model = two_adapters()
    expected = output_of(model, "other")
    model.delete_adapter("default")
    assert not any("default" in key for key in model.state_dict())
    layer = model.base_model.model.conv
    assert all("default" not in getattr(layer, name) for name in layer.adapter_layer_names + layer.other_param_names)
    torch.testing.assert_close(model(ids()), expected)


def test_unload_gives_the_base_model_back() -> None:
    unloaded = two_adapters().unload()
    assert not any(isinstance(module, MTLoraLayer) for module in unloaded.modules())
    assert torch.equal(unloaded(ids()), toy()(ids()))
    assert unloaded.state_dict().keys() == toy().state_dict().keys()


def test_merging_a_tied_embedding_changes_both_ends() -> None:
    """GPT-2 ties wte and lm_head: they stay one tensor when an adapter is merged into it."""
    model = get_peft_model(tiny_gpt2(), MTLoraConfig(target_modules=["wte"], init_weights=False))
    layer = layer_of(model)
    expected = layer.base_layer.weight.detach() + layer.get_delta_weight("default")
    merged = model.merge_and_unload()
    assert merged.lm_head.weight is merged.transformer.wte.weight
    torch.testing.assert_close(merged.lm_head.weight, expected)


def test_batch_with_a_different_adapter_in_each_row() -> None:
    model = two_adapters()
    expected = [toy()(ids())[0], output_of(model, "default")[1], output_of(model, "other")[2]]
    mixed = model(ids(), adapter_names=["__base__", "default", "other"])
    torch.testing.assert_close(mixed, torch.stack(expected))
    with pytest.raises(ValueError, match="non-existing adapter"):
        model(ids(), adapter_names=["default", "other", "typo"])
    with pytest.raises(ValueError, match="same as the number of inputs"):
        model(ids(), adapter_names=["default", "other"])
    with pytest.raises(ValueError, match="training mode"):
        model.train()(ids(), adapter_names=["default"] * 3)
    model.eval().merge_adapter()
    with pytest.raises(ValueError, match="merged adapters"):
        model(ids(), adapter_names=["default"] * 3)


def test_beam_search_with_a_different_adapter_in_each_row() -> None:
    config = {"structure": "shim", "init_weights": False, "target_modules": ["c_attn"], "mtlora_alpha": 64}
    model = get_peft_model(tiny_gpt2(), MTLoraConfig(**config, fan_in_fan_out=True)).eval()
    model.add_adapter("other", MTLoraConfig(**config, fan_in_fan_out=True))
    options = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    alone = []
    for row, adapter in enumerate(["default", "other"]):
        model.set_adapter(adapter)
        alone.append(model.generate(input_ids=ids()[row : row + 1], **options)[0])
    mixed = model.generate(input_ids=ids()[:2], adapter_names=["default", "other"], **options)
    assert [row.tolist() for row in mixed] == [row.tolist() for row in alone]


@pytest.mark.parametrize("kind", ["linear", "embedding", "fused conv, joint"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_base_model(kind: str, dtype: torch.dtype, autocast: bool) -> None:
    target, fused = KINDS[kind]
    masks = {target: fused["fused_modules"][target]} if fused else None
    values: dict[str, Any] = {**fused, "fused_modules": masks, "target_modules": [target], "init_weights": False}
    config = MTLoraConfig(structure="ctcm", **values)
    model = get_peft_model(toy().to(dtype), config, autocast_adapter_dtype=autocast)
    layer = layer_of(model)
    assert {p.dtype for n, p in layer.named_parameters() if "mtlora" in n} == {torch.float32 if autocast else dtype}
    output = model(ids())
    assert output.dtype == dtype
    model.merge_adapter(safe_merge=True)
    assert layer.get_base_layer().weight.dtype == dtype
    torch.testing.assert_close(model(ids()), output, rtol=0.05, atol=0.05)


def test_merge_is_computed_in_float32_for_half_precision_adapters() -> None:
    exact = adapted("ctcm")
    half = adapted("ctcm").half()
    with torch.no_grad():
        for mine, theirs in zip(exact.parameters(), half.parameters(), strict=True):
            mine.copy_(theirs)
    delta = layer_of(half).get_delta_weight("default")
    assert torch.equal(delta, delta_by_hand("ctcm", "linear", layer_of(exact)).float().half())


def test_safe_merge_refuses_a_broken_adapter_and_leaves_the_weight_alone() -> None:
    model = adapted("shim")
    layer = layer_of(model)
    before = layer.get_base_layer().weight.detach().clone()
    layer.weight_of("C", "default").data.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaNs detected in the merged weights"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.get_base_layer().weight, before)
    assert not layer.merged


def test_embedding_with_a_scaled_output() -> None:
    """Gemma 3 multiplies the output of its embedding, so the update must be multiplied too."""

    class Scaled(nn.Embedding):
        embed_scale = 3.0

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * self.embed_scale

    base = Toy().double()
    base.embedding = Scaled(11, 6).double()
    model = get_peft_model(base, MTLoraConfig(target_modules=["embedding"], init_weights=False)).double()
    output = model(ids())
    torch.testing.assert_close(model.merge_and_unload()(ids()), output)


def test_adapter_of_the_same_name_replaces_all_factors() -> None:
    base = adapted("ctcm").base_model.model
    with pytest.warns(UserWarning, match="Already found a `peft_config`"):
        model = get_peft_model(base, MTLoraConfig(structure="shim", target_modules=["linear"]))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"base_model.model.linear.mtlora_{letter}.default.weight" for letter in "ABC"
    }


def test_all_linear_takes_linear_and_conv1d() -> None:
    model = get_peft_model(toy(), MTLoraConfig(target_modules="all-linear"))
    assert set(model.targeted_module_names) == {"linear", "conv", "head"}


def test_gradient_checkpointing_and_autocast_train_every_factor() -> None:
    model = get_peft_model(
        tiny_gpt2(),
        MTLoraConfig(target_modules=["c_attn"], structure="dtsm", init_weights=False, fan_in_fan_out=True),
    ).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(ids(), labels=ids()).loss
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and p.grad.any() for p in trained)


def test_a_parametrized_weight_is_not_merged_in_silence() -> None:
    model = adapted("shim", "linear")
    layer = layer_of(model)
    torch.nn.utils.parametrizations.weight_norm(layer.get_base_layer())
    with pytest.raises(ValueError, match="parametrized"):
        model.merge_adapter()


def test_a_broken_adapter_leaves_its_layer_as_it_was() -> None:
    model = adapted("shim", "linear")
    layer = layer_of(model)
    model.add_adapter("broken", model.peft_config["default"])
    layer.weight_of("B", "broken").data.fill_(float("nan"))
    before = layer.get_base_weight().clone()
    with pytest.raises(ValueError, match="broken"):
        model.merge_adapter(adapter_names=["default", "broken"], safe_merge=True)
    assert torch.equal(layer.get_base_weight(), before)
    assert layer.merged_adapters == []
