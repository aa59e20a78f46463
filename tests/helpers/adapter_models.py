"""Small models and the MTLoRA formula written out by hand, shared by the tests of the adapter."""

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from mtlora.adapter import MTLoraConfig, MTLoraLayer

STRUCTURES = ("none", "shim", "icfm", "ctcm", "dtsm")
FUSED = {"linear": [True, False, True], "conv": [False, True, True]}
# every kind of layer and, for the fused ones, both kinds of T
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "conv": ("conv", {}),
    "embedding": ("embedding", {}),
    "fused linear, block": ("linear", {"fused_modules": FUSED}),
    "fused linear, joint": ("linear", {"fused_modules": FUSED, "fused_transform": "joint"}),
    "fused conv, block": ("conv", {"fused_modules": FUSED}),
    "fused conv, joint": ("conv", {"fused_modules": FUSED, "fused_transform": "joint"}),
}


class Toy(nn.Module):
    """token ids (batch, length) -> (batch, length, 4); has one layer of each kind that MTLoRA adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.linear = nn.Linear(6, 12)
        self.conv = Conv1D(9, 12)
        self.head = nn.Linear(9, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.conv(torch.tanh(self.linear(self.embedding(ids))))))


def toy(seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    return Toy().double()


def ids() -> torch.Tensor:
    return torch.arange(15).view(3, 5) % 11


def adapted(structure: str = "shim", kind: str = "linear", **options: Any) -> PeftModel:
    """A `Toy` in float64 with a non-identity adapter on the layer of that kind; alpha / r = 1.5."""
    target, fused = KINDS[kind]
    values = {"r": 2, "mtlora_alpha": 3, "init_weights": False, "target_modules": [target], **fused, **options}
    if values.get("fused_modules"):
        values["fused_modules"] = {target: values["fused_modules"][target]}
    torch.manual_seed(1)
    return get_peft_model(toy(), MTLoraConfig(structure=structure, **values)).double()


def layer_of(model: nn.Module) -> MTLoraLayer:
    return next(module for module in model.modules() if isinstance(module, MTLoraLayer))


def t_by_hand(structure: str, layer: MTLoraLayer, index: int | None) -> torch.Tensor:
    """T of the paper's table of structures, of one slice if an index is given."""
    c, d = (layer.weight_of(letter, "default") if "default" in layer.matrices(letter) else None for letter in "CD")
    if index is not None:
        c, d = (None if factor is None else factor[index] for factor in (c, d))
    if structure == "none":
        rank = layer.weight_of("A", "default").shape[0] if index is None else layer.r["default"]
        return torch.eye(rank, dtype=layer.weight_of("A", "default").dtype)
    return {"shim": lambda: c, "icfm": lambda: c @ c.T, "ctcm": lambda: c @ d, "dtsm": lambda: c + d}[structure]()


def delta_by_hand(structure: str, kind: str, layer: MTLoraLayer, scaling: float = 1.5) -> torch.Tensor:
    """dW of shape (out, in), slice by slice: rows of slice i = scaling * B_i (T A)_i, 0 where not adapted."""
    a, b, r = layer.weight_of("A", "default"), layer.weight_of("B", "default"), layer.r["default"]
    if "fused" not in kind:
        return scaling * b @ t_by_hand(structure, layer, None) @ a
    mask = FUSED[KINDS[kind][0]]
    height = layer.out_features // len(mask)
    if "block" in kind:
        ta = [t_by_hand(structure, layer, k) @ a_k for k, a_k in enumerate(a.split(r))]
    else:
        ta = list((t_by_hand(structure, layer, None) @ a).split(r))
    updates = iter([scaling * b_k @ ta_k for b_k, ta_k in zip(b.split(height), ta, strict=True)])
    untouched = torch.zeros(height, layer.in_features, dtype=a.dtype)
    return torch.cat([next(updates) if flag else untouched for flag in mask])
