"""Training in which parameters are whole only for a moment: sharded over two processes, or emptied outside of `forward`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

from mtlora.adapter import MTLoraConfig

TARGETS: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "r": 4}
CONFIGS: dict[str, PeftConfig] = {
    "LoRA": LoraConfig(init_lora_weights=False, **TARGETS),
    "MTLoRA": MTLoraConfig(
        init_weights=False,
        structure="ctcm",
        fused_modules={"q_proj": [True, False]},
        **TARGETS | {"target_modules": ["q_proj", "v_proj", "embed_tokens"]},
    ),
}
WAYS = ("alone", "FSDP flat", "FSDP use_orig_params", "FSDP2 layers", "FSDP2 matrices")


@contextmanager
def gathered_outside_of_forward(model: nn.Module) -> Iterator[None]:
    """Empty every trained parameter, and bring it back in hooks of its own module, as ZeRO-3 does."""
    whole = {p: p.data for p in model.parameters() if p.requires_grad}

    def gather(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = whole.get(parameter, parameter.data)

    def release(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            if parameter in whole:
                parameter.data = parameter.data.new_empty(0)

    handles = []
    for module in model.modules():
        if any(p in whole for p in module.parameters(recurse=False)):
            handles += [module.register_forward_pre_hook(gather), module.register_forward_hook(release)]
            handles += [module.register_full_backward_pre_hook(gather)]
            release(module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, data in whole.items():
            parameter.data = data


def losses(config: PeftConfig, way: str) -> list[float]:
    """Return the losses of two steps of a tiny Llama that is sharded in one of the `WAYS`."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
    )
    model: Any = sharded(get_peft_model(LlamaForCausalLM(shape), config), way)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    found, ids = [], torch.arange(12).view(2, 6)
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def sharded(model: PeftModel, way: str) -> nn.Module:
    """Shard a model over the processes in one of the `WAYS`."""
    policy = fsdp_auto_wrap_policy(model)
    if way.startswith("FSDP "):
        flat = way == "FSDP flat"
        return FullyShardedDataParallel(
            model, auto_wrap_policy=policy, use_orig_params=not flat, device_id=torch.device("cpu")
        )
    if way == "alone":
        return model
    if way == "FSDP2 matrices":  # the modules that PEFT's policy wraps
        for module in list(model.modules()):
            weight = getattr(module, "weight", None)
            if not list(module.children()) and weight is not None and weight.requires_grad:
                fully_shard(module)
    for layer in model.get_base_model().model.layers:
        fully_shard(layer)
    return fully_shard(model)


def main() -> None:
    """Print the losses as JSON: configuration -> way -> losses. Arguments: rank, file of the store."""
    torch.set_num_threads(1)
    rank = int(sys.argv[1])
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
    found = {name: {way: losses(config, way) for way in WAYS} for name, config in CONFIGS.items()}
    dist.destroy_process_group()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
