"""Each row of the tables in docs/adapter.md: it works, or it is refused with the error of the table."""

import copy
import inspect
import io
import pickle
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from helpers.adapter_models import KINDS, adapted, ids, layer_of, toy
from helpers.quantised_layers import bitsandbytes, quantised, torchao
from helpers.sharded_training import gathered_outside_of_forward
from peft import (
    AutoPeftModelForCausalLM,
    LoraConfig,
    PeftModel,
    convert_to_lora,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.helpers import rescale_adapter_scale
from peft.optimizers import create_loraplus_optimizer, create_riemannian_optimizer
from peft.tuners.lora import initialize_lora_eva_weights, preprocess_loraga
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from mtlora import MTLoraConfig, save_as_lora

PAGE = Path(__file__).parents[2] / "docs" / "adapter.md"
Check = Callable[[Path], Any]
CHECKS: dict[str, Check] = {}


def row(name: str) -> Callable[[Check], Check]:
    """Register the check of a row: it asserts that the function works, or does what is refused."""
    return lambda check: CHECKS.setdefault(name, check)


def rows(heading: str) -> dict[str, str]:
    """Return a table of the page: its first column -> its second; a row about several options counts for each of them."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| (?!function|---)(.+?) \| (.+) \|$", text, re.MULTILINE)
    names = {first: first.split(", ") if re.fullmatch(r"`\w+`(, `\w+`)+", first) else [first] for first, _ in found}
    return {name: second for first, second in found for name in names[first]}


WORKS, REFUSED = rows("What works"), rows("What is refused")


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    shape = GPT2Config(n_layer=2, n_embd=24, n_head=2, vocab_size=31, n_positions=16, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(shape).eval()


def of_gpt2(**options: Any) -> PeftModel:
    values = {"target_modules": ["c_attn"], "init_weights": False, "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}
    torch.manual_seed(1)
    return get_peft_model(gpt2(), MTLoraConfig(**(values | {"structure": "ctcm"} | options))).eval()


def of_linear(**options: Any) -> MTLoraConfig:
    return MTLoraConfig(**{"target_modules": ["linear"], "init_weights": False, **options})


def two_adapters() -> PeftModel:
    model = adapted("icfm").eval()
    model.add_adapter("other", of_linear(r=3, structure="dtsm", target_modules=["linear", "conv"]))
    return model.double()


def gradients(model: nn.Module) -> list[torch.Tensor]:
    trained = [p for p in model.parameters() if p.requires_grad]
    output = model(ids())
    return list(torch.autograd.grad(getattr(output, "logits", output).square().sum(), trained))


def adapted_modules(**options: Any) -> set[str]:
    return set(of_gpt2(**options).targeted_module_names)


@row("layer types")
@row("fused projections")
def _(_: Path) -> None:
    for kind in KINDS:
        model = adapted("ctcm", kind).eval()
        output = model(ids())
        assert not torch.equal(output, toy()(ids()))
        torch.testing.assert_close(model.merge_and_unload()(ids()), output)


@row("choice of modules")
def _(_: Path) -> None:
    one, both = "transformer.h.1.attn.c_attn", {f"transformer.h.{i}.attn.c_attn" for i in range(2)}
    assert adapted_modules() == adapted_modules(target_modules=None) == both
    assert adapted_modules(target_modules=r".*h\.1\.attn\.c_attn") == {one}
    assert adapted_modules(exclude_modules=r".*h\.0\..*") == {one}
    assert adapted_modules(layers_to_transform=[1], layers_pattern="h") == {one}
    assert both < adapted_modules(target_modules="all-linear")


@row("ranks and alphas by module")
def _(_: Path) -> None:
    model = of_gpt2(
        rank_pattern={r"h\.1\.attn\.c_attn": 2}, alpha_pattern={r"h\.1\.attn\.c_attn": 3}, r=4, mtlora_alpha=6
    )
    blocks = model.base_model.model.transformer.h
    assert [block.attn.c_attn.r["default"] for block in blocks] == [4, 2]
    assert [block.attn.c_attn.scaling["default"] for block in blocks] == [6 / 4, 3 / 2]


@row("rsLoRA scaling")
def _(_: Path) -> None:
    assert layer_of(adapted(use_rslora=True, r=4, mtlora_alpha=6)).scaling["default"] == 6 / 2


@row("trained heads")
@row("biases")
def _(folder: Path) -> None:
    for number, bias in enumerate(("all", "mtlora_only")):
        model = adapted("ctcm", modules_to_save=["head"], bias=bias).eval()
        trained = [p for n, p in model.named_parameters() if p.requires_grad and ".mtlora_" not in n]
        assert len(trained) == {"all": 4, "mtlora_only": 3}[bias]  # the head's two; the biases of linear and conv
        with torch.no_grad():
            [parameter.add_(1) for parameter in trained]
        model.save_pretrained(folder / str(number))
        torch.testing.assert_close(PeftModel.from_pretrained(toy(), folder / str(number))(ids()), model(ids()))


@row("several adapters")
@row("switching off")
def _(_: Path) -> None:
    model, outputs = two_adapters(), []
    for name in ("default", "other"):
        model.set_adapter(name)
        outputs.append(model(ids()))
    with model.disable_adapter():
        outputs.append(model(ids()))
    assert torch.equal(outputs[2], toy()(ids()))
    assert not any(torch.allclose(outputs[i], outputs[i - 1]) for i in range(3))
    model.delete_adapter("default")
    assert torch.equal(model(ids()), outputs[1])
    assert torch.equal(model.unload()(ids()), outputs[2])


@row("a batch of several adapters")
def _(_: Path) -> None:
    model = of_gpt2(mtlora_alpha=64)
    model.add_adapter("other", MTLoraConfig(target_modules=["c_attn"], init_weights=False, mtlora_alpha=64))
    names, alone = ["default", "__base__", "other"], []
    for number, name in enumerate(names):
        model.set_adapter(name if name != "__base__" else "default")
        with model.disable_adapter() if name == "__base__" else torch.no_grad():
            alone.append(model.generate(input_ids=ids()[number : number + 1], max_new_tokens=3, pad_token_id=0)[0])
    together = model.generate(input_ids=ids(), max_new_tokens=3, adapter_names=names, pad_token_id=0)
    assert torch.equal(together, torch.stack(alone))


@row("merging")
def _(_: Path) -> None:
    for safe in (False, True):
        model = two_adapters()
        model.base_model.set_adapter(["default", "other"])
        output, weight = model(ids()), layer_of(model).get_base_weight().clone()
        model.merge_adapter(safe_merge=safe)
        torch.testing.assert_close(model(ids()), output)
        model.unmerge_adapter()
        torch.testing.assert_close(layer_of(model).get_base_weight(), weight)
        torch.testing.assert_close(model.merge_and_unload(safe_merge=safe)(ids()), output)


@row("saving and loading")
def _(folder: Path) -> None:
    gpt2().save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    model = get_peft_model(base, of_gpt2().peft_config["default"]).eval()
    model.save_pretrained(folder / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder / "adapter")
    assert torch.equal(loaded(ids()).logits, model(ids()).logits)
    for low in (False, True):
        loaded = PeftModel.from_pretrained(gpt2(), folder / "adapter", low_cpu_mem_usage=low)
        loaded.load_adapter(folder / "adapter", "other", low_cpu_mem_usage=low)
        loaded.set_adapter("other")
        assert torch.equal(loaded(ids()).logits, model(ids()).logits)


@row("adapters of transformers")
def _(folder: Path) -> None:
    model, fresh = gpt2(), gpt2()
    model.add_adapter(of_gpt2().peft_config["default"])
    model.save_pretrained(folder)
    assert not torch.equal(fresh(ids()).logits, model(ids()).logits)
    fresh.load_adapter(folder)
    assert torch.equal(fresh(ids()).logits, model(ids()).logits)


@row("export to LoRA")
def _(folder: Path) -> None:
    model = adapted("ctcm").eval()
    model.save_as_lora(folder)
    torch.testing.assert_close(PeftModel.from_pretrained(toy(), folder)(ids()), model(ids()))
    assert convert_to_lora(model, rank=2)[0].r == 2


@row("combining adapters, as LoRA")
def _(folder: Path) -> None:
    model = two_adapters()
    for name in ("default", "other"):
        save_as_lora(model, folder / name, name)
    lora = PeftModel.from_pretrained(toy(), folder / "default").double()
    lora.load_adapter(folder / "other", "other")
    lora.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum", combination_type="cat")
    lora.set_adapter("sum")
    model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(lora.double()(ids()), model(ids()), rtol=1e-5, atol=1e-6)


@row("half precision")
def _(_: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        for autocast in (False, True):
            model = get_peft_model(toy().to(dtype), of_linear(structure="ctcm"), autocast_adapter_dtype=autocast)
            assert layer_of(model).weight_of("C", "default").dtype == (torch.float32 if autocast else dtype)
            assert model(ids()).dtype == dtype
            assert all(gradient.any() for gradient in gradients(model))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(gradient.any() for gradient in gradients(adapted("ctcm").float()))


@row("gradient checkpointing")
def _(_: Path) -> None:
    expected = gradients(of_gpt2())
    for reentrant in (False, True):
        model = of_gpt2().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model(ids()).logits.square().sum().backward()
        torch.testing.assert_close([p.grad for p in model.parameters() if p.requires_grad], expected)


@row("tied weights")
def _(_: Path) -> None:
    model = of_gpt2(target_modules=["wte"])
    expected = layer_of(model).base_layer.weight + layer_of(model).get_delta_weight("default")
    merged = model.merge_and_unload()
    assert merged.lm_head.weight is merged.transformer.wte.weight
    torch.testing.assert_close(merged.lm_head.weight, expected)


@row("inputs without rows")
def _(_: Path) -> None:
    for kind in KINDS:
        model = adapted("ctcm", kind)
        for shape in ((0, 5), (3, 0)):
            empty = torch.zeros(shape, dtype=torch.long)
            assert model(empty).shape == (*shape, 4)
            with model.disable_adapter():
                assert model(empty).shape == (*shape, 4)
    for shape in ((0, 6), (0, 3, 6), (3, 0, 6)):
        assert layer_of(adapted())(torch.zeros(shape, dtype=torch.double)).shape == (*shape[:-1], 12)


@row("torch.compile")
def _(_: Path) -> None:
    for kind in ("linear", "embedding", "fused conv, joint"):
        model = adapted("ctcm", kind)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(ids()), model(ids()))
        torch.testing.assert_close(gradients(compiled), gradients(model))


@row("torch.export and torch.jit.trace")
def _(_: Path) -> None:
    model = adapted("ctcm", "fused linear, block").base_model.model.eval()
    torch.testing.assert_close(torch.export.export(model, (ids(),)).module()(ids()), model(ids()))
    torch.testing.assert_close(torch.jit.trace(model, (ids(),))(ids()[:2]), model(ids()[:2]))


@row("copies")
def _(_: Path) -> None:
    model, stream = adapted("ctcm"), io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(stream, weights_only=False)):
        assert torch.equal(other(ids()), model(ids()))
        assert layer_of(other).weight_of("C", "default") is not layer_of(model).weight_of("C", "default")


@row("offload of accelerate")
@torch.no_grad()
def _(folder: Path) -> None:
    for number, kind in enumerate(KINDS):
        for structure in ("none", "shim", "ctcm"):
            for how in ("cpu", "disk"):
                model = adapted(structure, kind).eval()
                expected = model(ids())
                if how == "cpu":
                    cpu_offload(model, execution_device="cpu")
                else:
                    disk_offload(model, folder / f"{number}{structure}", execution_device="cpu")
                assert layer_of(model).weight_of("A", "default").is_meta
                assert torch.equal(model(ids()), expected)
                torch.testing.assert_close(model.merge_and_unload()(ids()), expected)
    model = of_gpt2()
    model.save_pretrained(folder / "adapter")
    parts = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.drop": "cpu", "transformer.ln_f": "cpu"}
    parts |= {"transformer.h.0": "cpu", "transformer.h.1": "disk", "lm_head": "cpu"}
    base = dispatch_model(gpt2(), parts, offload_dir=folder / "base", main_device="cpu", force_hooks=True)
    loaded = PeftModel.from_pretrained(base, folder / "adapter", offload_folder=folder / "more").eval()
    assert torch.equal(loaded(ids()).logits, model(ids()).logits)


@row("gathering as in ZeRO-3")
def _(_: Path) -> None:
    for kind in KINDS:
        for structure in ("none", "shim", "ctcm", "dtsm"):
            model = adapted(structure, kind)
            expected = model(ids()), gradients(model)
            with gathered_outside_of_forward(model):
                found = model(ids()).clone(), gradients(model)
            torch.testing.assert_close(found, expected)


@row("`add_weighted_adapter`")
def _(_: Path) -> None:
    two_adapters().add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum")


@row("`rescale_adapter_scale`")
def _(_: Path) -> None:
    with rescale_adapter_scale(adapted(), 0.5):
        pass


@row("hot-swapping")
def _(folder: Path) -> None:
    model = adapted()
    model.save_pretrained(folder)
    hotswap_adapter(model, folder, "default")


@row("hot-swapping in transformers")
def _(folder: Path) -> None:
    model = gpt2()
    model.add_adapter(of_gpt2().peft_config["default"])
    model.save_pretrained(folder)
    if "hotswap" not in inspect.signature(model.load_adapter).parameters:
        pytest.skip("this version of transformers has no hot-swapping")
    model.load_adapter(folder, adapter_name="default", hotswap=True)


@row("mixed models")
def _(_: Path) -> None:
    get_peft_model(toy(), of_linear(), mixed=True)


@row("LoRA beside MTLoRA in one model")
def _(_: Path) -> None:
    adapted().add_adapter("other", LoraConfig(target_modules=["linear"]))


@row("conversion of the initial weights")
def _(folder: Path) -> None:
    adapted().save_pretrained(folder, path_initial_model_for_weight_conversion=folder)


# PEFT's own fields of the same meaning: MTLoraConfig calls them mtlora_alpha, mtlora_dropout and init_weights.
RENAMED = {"lora_alpha", "lora_dropout", "init_lora_weights"}
ONLY_LORA = {f.name for f in fields(LoraConfig)} - {f.name for f in fields(MTLoraConfig)} - RENAMED
for _option in sorted(ONLY_LORA):
    CHECKS[f"`{_option}`"] = lambda _, given={_option: True}: MTLoraConfig(**given)  # type: ignore[misc]


@row("starts that change the base weights or read data")
def _(_: Path) -> None:
    for name in ("pissa", "pissa_niter_4", "olora", "eva", "corda", "loftq", "mica", "lora_ga"):
        with pytest.raises(ValueError, match=f"`init_weights` must be one of .* got '{name}'"):
            MTLoraConfig(init_weights=name)  # type: ignore[arg-type]
    MTLoraConfig(init_weights="orthogonal")  # type: ignore[arg-type]


@row("EVA's start (`initialize_lora_eva_weights`)")
def _(_: Path) -> None:
    initialize_lora_eva_weights(adapted(), [ids()])


@row("LoRA-GA's start")
def _(_: Path) -> None:
    preprocess_loraga(toy(), of_linear(), lambda: None)


@row("the Riemannian optimizer of LoRA")
def _(_: Path) -> None:
    create_riemannian_optimizer(adapted(), torch.optim.AdamW, lr=1e-3, optimizer_kwargs={"lr": 1e-3})


@row("the optimizer of LoRA+")
def _(_: Path) -> None:
    model = adapted("ctcm")
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    layer = layer_of(model)
    found = {letter: rates[id(layer.weight_of(letter, "default"))] for letter in "ABCD"}
    assert found == pytest.approx({"A": 1e-3, "B": 16e-3, "C": 1e-3, "D": 1e-3})


@row("inspection")
def _(_: Path) -> None:
    model = adapted("ctcm")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert model.get_nb_trainable_parameters()[0] == model.get_model_status().trainable_params == trained
    assert [status.name for status in model.get_layer_status()] == ["model.linear"]


@row("freezing an adapter")
def _(_: Path) -> None:
    model = two_adapters()
    model.set_requires_grad(["default", "other"], requires_grad=False)
    assert not any(p.requires_grad for p in model.parameters())
    model.set_requires_grad("default")
    assert {n.split(".")[-2] for n, p in model.named_parameters() if p.requires_grad} == {"default"}


@row("injection without a PeftModel")
def _(_: Path) -> None:
    model, injected = adapted("ctcm"), toy()
    inject_adapter_in_model(model.peft_config["default"], injected)
    set_peft_model_state_dict(injected, get_peft_model_state_dict(model))
    assert torch.equal(injected.double()(ids()), model(ids()))


def adapt(base: nn.Module, target: str = "0") -> PeftModel:
    return get_peft_model(base, MTLoraConfig(target_modules=[target]))


@row("other layer types")
def _(_: Path) -> None:
    adapt(nn.Sequential(nn.Conv2d(3, 3, 1)))


@row("`nn.MultiheadAttention`")
def _(_: Path) -> None:
    adapt(nn.MultiheadAttention(4, 2), "out_proj")


def stored_as(dtype: torch.dtype, layer: nn.Linear) -> nn.Linear:
    layer.weight = nn.Parameter(layer.weight.to(dtype), requires_grad=False)
    return layer


class HQQLinear(nn.Module):
    """A layer as those of HQQ, GPTQ, AWQ, AQLM and EETQ: not an `nn.Linear`, its weight under another name."""

    W_q = nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)


@row("other quantised layers")
def _(_: Path) -> None:
    for dtype in (torch.int8, torch.uint8):
        with pytest.raises(ValueError, match=re.escape(REFUSED["other quantised layers"])):
            adapt(nn.Sequential(stored_as(dtype, nn.Linear(4, 4))))
    with pytest.raises(ValueError, match=r"type HQQLinear: only nn\.Linear, .* are supported"):
        adapt(nn.Sequential(HQQLinear()))
    adapt(nn.Sequential(stored_as(torch.float8_e4m3fn, nn.Linear(4, 4))))


@row("quantised embeddings")
def _(_: Path) -> None:
    adapt(nn.Sequential(bitsandbytes().nn.Embedding4bit(64, 64).to("cpu")))


@row("training with a torchao layer that quantises its inputs, too")
def _(_: Path) -> None:
    base, ao = nn.Sequential(nn.Linear(64, 32)), torchao().quantization
    ao.quantize_(base, ao.Int8DynamicActivationInt8WeightConfig())
    model = adapt(base)
    assert model.eval()(torch.ones(2, 64)).shape == (2, 32)
    model.train()(torch.ones(2, 64))


@row("merging into a torchao weight that transformers did not quantise")
def _(_: Path) -> None:
    adapt(nn.Sequential(quantised("torchao"))).merge_adapter()


@row("merging before bitsandbytes has quantised")
def _(_: Path) -> None:
    adapt(nn.Sequential(bitsandbytes().nn.Linear4bit(64, 32))).merge_adapter()


@row("an embedding with `max_norm`")
def _(_: Path) -> None:
    adapt(nn.Sequential(nn.Embedding(4, 4, max_norm=1.0)))


@row("merging into a parametrized weight")
def _(_: Path) -> None:
    model = adapted()
    nn.utils.parametrizations.weight_norm(layer_of(model).get_base_layer())
    model.merge_adapter()


@row("merging into a weight that was quantised later")
def _(_: Path) -> None:
    model = adapted()
    stored_as(torch.int8, layer_of(model).get_base_layer())  # type: ignore[arg-type]
    model.merge_adapter()


@row("`adapter_names` in training")
def _(_: Path) -> None:
    adapted().train()(ids(), adapter_names=["default"] * 3)


@row("exporting a merged adapter")
def _(folder: Path) -> None:
    model = adapted()
    model.merge_adapter()
    model.save_as_lora(folder)


def test_every_option_of_lora_has_its_counterpart_or_its_row() -> None:
    assert {f"`{name}`" for name in ONLY_LORA} < set(REFUSED)


def test_page_and_checks_have_the_same_rows() -> None:
    elsewhere = {"FSDP", "FSDP2"}  # test_adapter_sharding.py, in two processes
    elsewhere |= {"quantised layers of bitsandbytes", "quantised layers of torchao"}  # test_adapter_quantised.py
    assert set(CHECKS) | elsewhere == set(WORKS) | set(REFUSED)
    assert not set(WORKS) & set(REFUSED)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in WORKS if name in CHECKS])
def test_works(name: str, tmp_path: Path) -> None:
    CHECKS[name](tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)) as error:
        CHECKS[name](tmp_path)
    assert REFUSED[name] in str(error.value)
    assert name.strip("`") not in ONLY_LORA or repr(name.strip("`")) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_packed_weight_counts_as_quantised() -> None:
    """torchao's weights have the dtype of their values, but are tensors of another class, packed in several others."""
    from torch.testing._internal.two_tensor import TwoTensor

    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(TwoTensor(torch.zeros(4, 4), torch.zeros(4, 4)))
    with pytest.raises(ValueError, match="of the quantised layers only"):
        adapt(nn.Sequential(layer))


def test_a_name_of_the_base_model_is_found_and_an_unknown_one_is_not_blamed_on_mtlora() -> None:
    model = two_adapters()
    assert model.base_model.conv is model.base_model.model.conv
    with pytest.raises(AttributeError, match="'Toy' object has no attribute 'nonsense'"):
        _ = model.nonsense
    assert not hasattr(model, "add_weighted_adapter")


def as_earlier_versions_wrote_it(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removesuffix(".weight") if ".mtlora_" in name else name: t for name, t in tensors.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_earlier_versions_load(kind: str, tmp_path: Path) -> None:
    model = adapted("ctcm", kind, modules_to_save=["head"]).eval()
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    file = tmp_path / "adapter_model.safetensors"
    assert {name.rpartition("mtlora_")[2] for name in load_file(file) if "mtlora" in name} == {
        f"{letter}.weight" for letter in "ABCD"
    }
    save_file(as_earlier_versions_wrote_it(load_file(file)), file, metadata={"format": "pt"})
    for low in (False, True):
        loaded = PeftModel.from_pretrained(toy(), tmp_path, low_cpu_mem_usage=low)
        assert torch.equal(loaded(ids()), model(ids()))


def test_state_dict_of_an_earlier_version_loads_into_a_named_adapter() -> None:
    model, other = two_adapters(), two_adapters()
    saved = as_earlier_versions_wrote_it(get_peft_model_state_dict(model, adapter_name="other"))
    for layer in other.modules():
        if hasattr(layer, "mtlora_A"):
            layer.reset_mtlora_parameters("other", False)
    result = set_peft_model_state_dict(other, saved, adapter_name="other")
    assert not result.unexpected_keys
    for each in (model, other):
        each.set_adapter("other")
    assert torch.equal(model(ids()), other(ids()))
