"""Quantised base layers: the dequantised layer plus the formula, in outputs and gradients; merging; a life with each library."""

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.adapter_models import STRUCTURES, delta_by_hand, ids, layer_of
from helpers.quantised_layers import IN, MAKERS, bitsandbytes, dequantised, quantised, torchao
from peft import LoraConfig, PeftModel, convert_to_lora, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from mtlora import MTLoraConfig

pytestmark = pytest.mark.filterwarnings("ignore")
FUSED = {"fused_modules": {"0": [True, False, True]}}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fused, block": FUSED,
    "fused, joint": FUSED | {"fused_transform": "joint"},
}


class Net(nn.Sequential):
    """A quantised layer, adapted as "0"."""


def adapted(kind: str, structure: str = "ctcm", **options: Any) -> PeftModel:
    values = {"r": 2, "mtlora_alpha": 3, "init_weights": False, "target_modules": ["0"], **options}
    net = Net(quantised(kind))
    if kind == "torchao":  # as transformers does
        net.hf_quantizer = SimpleNamespace(quantization_config=configuration(kind))
    torch.manual_seed(1)
    return get_peft_model(net, MTLoraConfig(structure=structure, **values)).eval()


def inputs() -> torch.Tensor:
    return torch.randn(3, 5, IN, generator=torch.Generator().manual_seed(2))


def by_hand(model: PeftModel, structure: str, kind: str, x: torch.Tensor) -> torch.Tensor:
    layer = layer_of(model)
    base = layer.get_base_layer()
    delta = delta_by_hand(structure, kind.replace("fused", "fused linear"), layer)
    return F.linear(x, dequantised(base) + delta, base.bias)


@pytest.mark.parametrize("fused", KINDS)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", MAKERS)
def test_output_and_gradients_are_those_of_the_dequantised_layer_and_the_formula(
    kind: str, structure: str, fused: str
) -> None:
    if structure == "none" and "joint" in fused:
        pytest.skip("there is no T to be joint")
    model = adapted(kind, structure, **KINDS[fused]).train()  # outside of training, int8 rounds its inputs, too
    trained = [p for p in model.parameters() if p.requires_grad]
    x = inputs().requires_grad_()
    found, expected = model(x), by_hand(model, structure, fused, x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(
        *(torch.autograd.grad(y.square().sum(), [x, *trained]) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", MAKERS)
def test_evaluation_before_and_between_training_changes_neither_outputs_nor_gradients(kind: str) -> None:
    """On a CPU with AVX512-BF16, bitsandbytes packs 4-bit weights in the first evaluation; then they cannot be trained on."""
    net = Net(quantised(kind))
    with torch.no_grad():
        net.eval()(inputs())
    config = MTLoraConfig(structure="ctcm", r=2, init_weights=False, mtlora_alpha=3, target_modules=["0"])
    torch.manual_seed(1)
    model = get_peft_model(net, config)
    with torch.no_grad():
        model.eval()(inputs())
    x = inputs().requires_grad_()
    found, expected = (m.train()(x) for m in (model, adapted(kind)))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)  # its packing rounds the scales to bf16
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in (found, expected)), rtol=1e-2, atol=0.05)


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_merging_quantises_the_sum(kind: str, safe: bool) -> None:
    model = adapted(kind)
    model(inputs())
    layer = layer_of(model)
    before = dequantised(layer.get_base_layer())
    total = before + layer.get_delta_weight("default")
    model.merge_adapter(safe_merge=safe)
    expected = dequantised(quantised(kind, total))
    torch.testing.assert_close(dequantised(layer.get_base_layer()), expected)
    assert (expected - total).abs().max() < (expected - before).abs().max() / 2
    output = model(inputs())
    torch.testing.assert_close(output, F.linear(inputs(), expected, layer.get_base_layer().bias), rtol=0.05, atol=0.05)
    model.unmerge_adapter()
    again = dequantised(quantised(kind, expected - layer.get_delta_weight("default")))
    torch.testing.assert_close(dequantised(layer.get_base_layer()), again)
    merged = model.merge_and_unload(safe_merge=safe)
    assert type(merged[0]) is type(quantised(kind))


def test_two_adapters_are_merged_with_one_rounding() -> None:
    model = adapted("nf4")
    model.add_adapter("other", MTLoraConfig(structure="dtsm", r=3, init_weights=False, target_modules=["0"]))
    model.base_model.set_adapter(["default", "other"])
    layer = layer_of(model)
    total = dequantised(layer.get_base_layer()) + sum(layer.get_delta_weight(name) for name in ("default", "other"))
    model.merge_adapter()
    assert layer.merged_adapters == ["default", "other"]
    torch.testing.assert_close(dequantised(layer.get_base_layer()), dequantised(quantised("nf4", total)))


@pytest.mark.parametrize("kind", MAKERS)
def test_safe_merge_leaves_the_weight_alone(kind: str) -> None:
    model = adapted(kind)
    layer = layer_of(model)
    layer.weight_of("B", "default").data[0, 0] = float("nan")
    before = dequantised(layer.get_base_layer()).clone()
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(dequantised(layer.get_base_layer()), before)
    assert not layer.merged


@pytest.mark.parametrize("kind", MAKERS)
def test_rows_copies_and_switching_off(kind: str) -> None:
    model = adapted(kind)
    x = inputs()
    with_adapter = model(x)
    with model.disable_adapter():
        without = model(x)
    assert not torch.allclose(with_adapter, without, atol=1e-2)
    together = model(x, adapter_names=["default", "__base__", "default"])
    torch.testing.assert_close(
        together, torch.stack([with_adapter[0], without[1], with_adapter[2]]), rtol=0.05, atol=0.02
    )
    assert torch.equal(copy.deepcopy(model)(x), with_adapter)
    if kind != "torchao":  # its tensors cannot be pickled
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), with_adapter)
    assert torch.equal(model.unload()(x), without)


# A model that transformers quantises, from its file to a merged model.


def configuration(kind: str) -> Any:
    import transformers

    if kind == "torchao":
        return transformers.TorchAoConfig(quant_type=torchao().quantization.Int8WeightOnlyConfig())
    bitsandbytes()
    if kind == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=torch.float32
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained GPT-2, whose Conv1D become the linear layers of bitsandbytes (torchao leaves them as they are)."""
    path = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(n_layer=2, n_embd=64, n_head=2, vocab_size=32, n_positions=16, bos_token_id=0, eos_token_id=0)
    ).save_pretrained(path)
    return path


def loaded(folder: Path, kind: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=configuration(kind), dtype=torch.float32)


def llama(path: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=16, **shape)).save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["int8", "nf4", "torchao"])
def test_train_save_load_export_merge(kind: str, folder: Path, tmp_path: Path) -> None:
    base, targets = folder, {"target_modules": ["c_attn"], "fused_modules": {"c_attn": [True, False, True]}}
    if kind == "torchao":
        base, targets = llama(tmp_path / "base"), {"target_modules": ["q_proj", "v_proj"]}
    torch.manual_seed(1)
    config = MTLoraConfig(structure="ctcm", r=2, mtlora_alpha=8, task_type="CAUSAL_LM", **targets)
    model = get_peft_model(prepare_model_for_kbit_training(loaded(base, kind)), config)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for step in range(12):
        if step == 6:
            with torch.no_grad():
                model.eval()(ids())
        loss = model.train()(input_ids=ids(), labels=ids()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2
    with torch.no_grad():
        trained = model.eval()(ids()).logits

    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(prepare_model_for_kbit_training(loaded(base, kind)), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(again(ids()).logits, trained)
        untrained = loaded(base, kind).eval()(ids()).logits

    model.save_as_lora(tmp_path / "lora")
    lora = PeftModel.from_pretrained(prepare_model_for_kbit_training(loaded(base, kind)), tmp_path / "lora")
    assert isinstance(lora.peft_config["default"], LoraConfig)
    for module in lora.modules():  # PEFT's LoRA lets bitsandbytes pack the weights
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        torch.testing.assert_close(lora.eval()(ids()).logits, trained, rtol=1e-4, atol=1e-4)
    assert convert_to_lora(model, rank=4)[0].r == 4

    merged = model.merge_and_unload()
    with torch.no_grad():
        distance = (merged(ids()).logits - trained).norm()
    assert distance < 0.3 * (untrained - trained).norm()
