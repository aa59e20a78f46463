"""Measure a training step of every method as a ratio to the floor: the forward and backward pass of the frozen backbone.

    python tools/benchmarks/steps.py

The models are RoBERTa-base and GPT-2 with random weights; the batches have real shapes. The floor trains only the head, with
gradients down to the output of the embeddings. Dropout, batch, optimizer, matrix library and attention are equal on all sides.
"""

import argparse
import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import loralib
import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from common import OUT, Entry, interleave, publish, ratio
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, RobertaConfig
from transformers.pytorch_utils import Conv1D

from mtlora.adapter import MTLoraConfig
from mtlora.adapter.layer import MTLoraLayer
from mtlora.adapter.matrices import expanded
from mtlora.base.files import write_text
from mtlora.base.onednn import onednn_is_fp32, set_fp32_matmul_precision
from mtlora.train.memory import peak_memory_bytes, reset_peak_memory, saved_bytes
from mtlora.train.model.attention import products, use_own_attention

STRUCTURES = ("none", "shim", "icfm", "ctcm", "dtsm")
NAMES = {"none": "LoRA (ours)", "shim": "SHIM", "icfm": "ICFM", "ctcm": "CTCM", "dtsm": "DTSM"}
QV = r".*\.attention\.self\.(query|value)"
OFFICIAL = r".*\.layer\.\d+\.(attention\.self\.(query|value)|intermediate\.dense|output\.dense)"
Step = Callable[[], Tensor]


def encoder(layers: int) -> nn.Module:
    """Return a RoBERTa-base with a number of layers and random weights."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"max_position_embeddings": 514, "vocab_size": 5000, "type_vocab_size": 1, "num_labels": 2}
    config = RobertaConfig(num_hidden_layers=layers, **sizes)
    model = AutoModelForSequenceClassification.from_config(config)
    use_own_attention(model)
    return model


def decoder(layers: int) -> nn.Module:
    """Return a GPT-2 with a number of layers, without dropout, as in data-to-text."""
    torch.manual_seed(0)
    quiet: dict[str, Any] = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=layers, vocab_size=5000, **quiet))
    use_own_attention(model)
    return model


def floor(model: nn.Module) -> nn.Module:
    """Freeze all but the head; gradients still flow down to the output of the embeddings."""
    model = copy.deepcopy(model)
    model.requires_grad_(False)
    head = getattr(model, "classifier", None)
    trained = head if head is not None else model.get_decoder().ln_f  # type: ignore[operator]
    trained.requires_grad_(True)
    embeddings = model.roberta.embeddings if head is not None else model.transformer.drop  # type: ignore[union-attr]
    embeddings.register_forward_hook(lambda module, args, output: output.requires_grad_())  # type: ignore[operator, union-attr]
    return model


def adapted(model: nn.Module, structure: str, modules: str, fused: bool = False, r: int = 8) -> nn.Module:
    """Return the model with an adapter of this package."""
    extra: dict[str, Any] = {"fused_modules": {"c_attn": [True, False, True]}} if fused else {}
    head = None if fused else ["classifier"]
    config = MTLoraConfig(
        r=r,
        mtlora_alpha=16,
        structure=structure,  # type: ignore[arg-type]
        target_modules=modules,
        modules_to_save=head,
        **extra,  # type: ignore[arg-type]
    )
    return get_peft_model(copy.deepcopy(model), config)  # type: ignore[arg-type]


def peft_lora(model: nn.Module, modules: str, r: int = 8) -> nn.Module:
    """Return the model with PEFT's LoRA."""
    config = LoraConfig(r=r, lora_alpha=16, target_modules=modules, modules_to_save=["classifier"])
    return get_peft_model(copy.deepcopy(model), config)  # type: ignore[arg-type]


def loralib_lora(model: nn.Module, modules: str, fused: bool = False, r: int = 8) -> nn.Module:
    """Return the model with loralib's layers, which also adapt slices of a fused projection."""
    model = copy.deepcopy(model)
    for name, base in [(n, m) for n, m in model.named_modules() if re.fullmatch(modules, n)]:
        settings = {"r": r, "lora_alpha": 16, "merge_weights": False}
        if isinstance(base, Conv1D):
            sizes = tuple(base.weight.shape)
            layer = loralib.MergedLinear(*sizes, enable_lora=[True, False, True], fan_in_fan_out=True, **settings)
        else:
            layer = loralib.Linear(base.in_features, base.out_features, **settings)
        layer.weight, layer.bias = base.weight, base.bias
        model.set_submodule(name, layer)
    loralib.mark_only_lora_as_trainable(model)
    if not fused:
        model.classifier.requires_grad_(True)  # type: ignore[union-attr]
    return model


def step_of(model: nn.Module, batch: dict[str, Tensor]) -> Step:
    """Return a function that takes one optimizer step and returns the loss."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> Tensor:
        torch.manual_seed(0)
        loss: Tensor = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def batch_of(rows: int, width: int, causal: bool = False) -> dict[str, Tensor]:
    """Return random tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 5000, (rows, width), generator=generator)
    return {"input_ids": ids, "labels": ids if causal else torch.randint(2, (rows,), generator=generator)}


@contextmanager
def gradients_kept(model: nn.Module, batch: dict[str, Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield the loss and the gradients of the adapters of one step, without updating."""
    torch.manual_seed(0)
    loss = model(**batch).loss
    loss.backward()
    yield loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad()


def add_update_plainly(layer: MTLoraLayer, h: Tensor, x: Tensor, adapter: str, in_place: bool = False) -> Tensor:
    """Return ``h + (alpha / r) B T A x``, computed from right to left."""
    t, ax = layer.get_transform(adapter), layer.project(x, adapter)
    tax = ax if t is None else F.linear(ax, t)
    return h + F.linear(layer.scaling[adapter] * tax, expanded(layer.weight_of("B", adapter), layer.slices[adapter]))


def reference_error(model: nn.Module, batch: dict[str, Tensor]) -> float:
    """Return the largest relative error of loss and gradients against the plain formula in the same model."""
    model.train()
    for name, p in model.named_parameters():
        if ".mtlora_B" in name:  # B starts at zero, where half of the gradients are zero
            torch.nn.init.normal_(p.data, std=0.02, generator=torch.Generator().manual_seed(1))
    with gradients_kept(model, batch) as (loss, gradients):
        ours = [loss, *(g.clone() for g in gradients)]
    fast, MTLoraLayer.add_update = MTLoraLayer.add_update, add_update_plainly  # type: ignore[assignment, method-assign]
    try:
        with gradients_kept(model, batch) as (loss, gradients):
            plain = [loss, *(g.clone() for g in gradients)]
    finally:
        MTLoraLayer.add_update = fast  # type: ignore[method-assign]
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, plain, strict=True))


def measure(
    title: str, sides: dict[str, nn.Module], batch: dict[str, Tensor], goal: float | None, repeats: int
) -> list[Entry]:
    """Time all sides against the floor; return entries with goals for ours, and without goals for the peers."""
    seconds = interleave({name: step_of(model, batch) for name, model in sides.items()}, repeats)
    entries = []
    thin, large = (rate_of(rank) / 1e9 for rank in (8, 768)) if goal else (0.0, 0.0)
    for name, model in sides.items():
        if name == "floor":
            continue
        value, spread = ratio(seconds[name], seconds["floor"])
        layers = [module for module in model.modules() if isinstance(module, MTLoraLayer)]
        equal, why = "peer", ""
        if layers:
            equal = f"loss and gradients of the plain formula to {reference_error(model, batch):.0e}"
            # the forward pass, and the gradients of A, of B T and of the input
            products = 3 * sum(
                layer.weight_of("A", "default").numel() + layer.weight_of("B", "default").numel() for layer in layers
            )
            share = products / (2 * sum(p.numel() for n, p in model.named_parameters() if ".base_layer.weight" in n))
            why = f"The adapters are {share:.1%} of the arithmetic, at {thin:.0f} GFLOP/s (rank 8) and not at {large:.0f} (768)"
        entries.append(
            Entry(f"step, {title}, {name}", value, "lower", goal if layers else None, "floor", spread, equal, why)
        )
    lora = NAMES["none"]
    for name in (NAMES[s] for s in STRUCTURES[1:] if NAMES[s] in sides):
        value, spread = ratio(seconds[name], seconds[lora])
        why = f"The ratio of single steps ranges over {spread}"
        entries.append(Entry(f"step, {title}, {name} over LoRA", value, "lower", 1.02, lora, spread, "as above", why))
    return entries


def rate_of(rank: int) -> float:
    """Return the operations per second of a product of (1,024, 768) with a matrix of the given rank."""
    a, b = torch.randn(1024, 768), torch.randn(768, rank)
    return 2 * a.numel() * rank / min(interleave({"product": lambda: a @ b}, 20)["product"])


def one_product(repeats: int) -> list[Entry]:
    """Compare one product for the A of q and v, which read the same input, with a product each; forward and backward."""
    x = torch.randn(1024, 768, requires_grad=True)
    a = [torch.randn(8, 768, requires_grad=True) for _ in range(2)]

    def each() -> Tensor:
        answer = torch.cat([F.linear(x, a[0]), F.linear(x, a[1])], 1)
        answer.sum().backward()
        return answer.detach()

    def one() -> Tensor:
        answer = F.linear(x, torch.cat(a))
        answer.sum().backward()
        return answer.detach()

    seconds = interleave({"each": each, "one": one}, 5 * repeats)
    value, spread = ratio(seconds["each"], seconds["one"])
    saved = median(seconds["each"]) - median(seconds["one"])
    equal = (
        f"answers to {float((each() - one()).norm() / one().norm()):.0e}; saves {1000 * saved:.2f} ms a layer and step"
    )
    return [Entry("A of q and v, 16 x 64 tokens", value, "higher", None, "a product each", spread, equal)]


def attention(repeats: int) -> list[Entry]:
    """Compare attention as two products with PyTorch's fused kernel, both with the same library of products."""
    entries = []
    for title, rows, width, size, causal in (("MiniLM", 64, 60, 32, False), ("GPT-2", 8, 64, 64, True)):
        generator = torch.Generator().manual_seed(0)
        factors = [torch.randn(rows, 12, width, size, generator=generator).requires_grad_() for _ in range(3)]

        def step(attention: Callable[..., Tensor], factors: list[Tensor] = factors, causal: bool = causal) -> Tensor:
            answer = attention(*factors, is_causal=causal)
            answer.square().sum().backward()
            return answer.detach()

        sides = {"fused": partial(step, F.scaled_dot_product_attention), "products": partial(step, products)}
        value, spread = ratio(*interleave(sides, 3 * repeats).values())
        fused, ours = (side() for side in sides.values())
        equal = f"answers to {float((fused - ours).norm() / fused.norm()):.0e}"
        name = f"attention, {title}, forward and backward"
        entries.append(Entry(name, value, "higher", None, "PyTorch's fused kernel", spread, equal))
    return entries


def gemm(batch: dict[str, Tensor], layers: int, repeats: int) -> list[Entry]:
    """Compare a step with oneDNN's fp32 products and with the stock library, if oneDNN passes its check on this machine."""
    if not onednn_is_fp32():
        print("fp32 through oneDNN is not used on this CPU (it would not be fp32): nothing to compare")
        return []
    model = adapted(encoder(layers), "shim", QV)
    step = step_of(model, batch)

    def loss() -> Tensor:
        torch.manual_seed(0)
        return model(**batch).loss.detach()

    def through(precision: str, function: Step = step) -> Step:
        def run() -> Tensor:
            set_fp32_matmul_precision(precision)
            return function()

        return run

    # Both sides compute attention as two products; so does PyTorch with dropout.
    seconds = interleave({"stock": through("ieee"), "onednn": through("bf16")}, repeats)
    value, spread = ratio(seconds["stock"], seconds["onednn"])
    losses = [float(through(precision, loss)()) for precision in ("ieee", "bf16")]
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2048, 768, generator=generator), torch.randn(768, 3072, generator=generator)
    exact, errors = a.double() @ b.double(), []
    for precision in ("bf16", "ieee"):
        set_fp32_matmul_precision(precision)
        errors.append(float(((a @ b).double() - exact).norm() / exact.norm()))
    rates = interleave({p: through(p, lambda: a @ b) for p in ("ieee", "bf16")}, repeats)
    stock, onednn = (2 * 2048 * 768 * 3072 / min(rates[p]) / 1e9 for p in ("ieee", "bf16"))
    set_fp32_matmul_precision("bf16")
    difference = abs(losses[1] / losses[0] - 1)
    equal = f"relative Frobenius error {errors[0]:.1e} (stock {errors[1]:.1e}) against fp64, losses to {difference:.0e}"
    why = f"On this CPU the stock library multiplies at {stock:.0f} GFLOP/s, oneDNN at {onednn:.0f}"
    return [Entry("fp32 step, stock over oneDNN", value, "higher", 1.7, "stock torch", spread, equal, why)]


def memory_sides(layers: int) -> dict[str, Callable[[], nn.Module]]:
    """Return, for each method whose memory is measured, a function that makes the model."""
    ours = {NAMES[s]: lambda s=s: adapted(encoder(layers), s, QV) for s in STRUCTURES}  # type: ignore[misc]
    return ours | {"PEFT LoRA": lambda: peft_lora(encoder(layers), QV), "full fine-tuning": lambda: encoder(layers)}


def peak(side: nn.Module) -> int:
    """Return the greatest growth of this process's memory in two steps, in bytes; the process should do nothing else."""
    step = step_of(side, batch_of(16, 64))
    before = psutil.Process().memory_info().rss
    reset_peak_memory(torch.device("cpu"))
    step()
    step()
    return peak_memory_bytes(torch.device("cpu")) - before


def memory(layers: int) -> None:
    """Show the bytes that each method keeps for the backward pass, and the memory growth of a process that trains it."""
    batch, rows = batch_of(16, 64), []
    for name, make in memory_sides(layers).items():
        side = make().train()
        trained = sum(p.numel() for p in side.parameters() if p.requires_grad)
        saved = saved_bytes(side, lambda side=side: side(**batch).loss)  # type: ignore[misc]
        command = [sys.executable, __file__, "--layers", str(layers), "--peak", name]
        grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        # gradient and two moments of what is trained, fp32
        rows.append([name, trained, *(size / 2**20 for size in (saved, 12 * trained, grown))])
    columns = [
        "method",
        "trained parameters",
        "saved activations",
        "gradients and AdamW",
        "measured growth of the process",
    ]
    table = pd.DataFrame(rows, columns=columns).round(1)
    text = f"Memory in MiB: {layers} layers of RoBERTa-base, 16 x 64 tokens, fp32\n\n{table.to_markdown(index=False)}\n"
    write_text(OUT.with_name("memory.md"), text)
    print(f"\n### {text}")


def main() -> None:
    """Measure everything and print tables."""
    parser = argparse.ArgumentParser(description="Steps over the floor, and the memory of a step.")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # the method of a process that measures its own memory
    options = parser.parse_args()
    set_fp32_matmul_precision("bf16" if onednn_is_fp32() else "ieee")
    if options.peak:
        print(peak(memory_sides(options.layers)[options.peak]()))
        return
    batch, model = batch_of(16, 64), encoder(options.layers)
    entries = []
    for title, modules, goal in (("q and v", QV, 1.03), ("official modules", OFFICIAL, 1.05)):
        sides = {"floor": floor(model)} | {NAMES[s]: adapted(model, s, modules) for s in STRUCTURES}
        sides |= {"PEFT LoRA": peft_lora(model, modules), "loralib": loralib_lora(model, modules)}
        entries += measure(title, sides, batch, goal, options.repeats)
    # By itself: the memory that it takes and gives back would slow whatever comes next in the turns.
    sides = {"floor": floor(model), "full fine-tuning": copy.deepcopy(model)}
    entries += measure("all weights", sides, batch, None, options.repeats)
    causal, text = decoder(options.layers), batch_of(8, 64, causal=True)
    sides = {"floor": floor(causal)} | {
        NAMES[s]: adapted(causal, s, r".*\.c_attn", fused=True, r=4) for s in STRUCTURES
    }
    sides["loralib"] = loralib_lora(causal, r".*\.c_attn", fused=True, r=4)
    entries += measure("fused q and v of GPT-2", sides, text, 1.05, options.repeats)
    entries += gemm(batch, options.layers, options.repeats) + attention(options.repeats) + one_product(options.repeats)
    publish(entries, "A training step")
    memory(options.layers)


if __name__ == "__main__":
    main()
