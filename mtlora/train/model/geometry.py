"""The geometry of T in a trained model: small summaries that a run keeps for each epoch, instead of weights."""

from typing import Any

import torch
from torch import nn

from mtlora.adapter.layer import MTLoraLayer


def transform_geometry(model: nn.Module, epoch: int) -> list[dict[str, Any]]:
    """Describe T of every adapted module; nothing for LoRA, whose T is the identity.

    A fused module with one T per slice counts as one block-diagonal T, with the singular values and eigenvalues of all blocks.

    Args:
        model: A model with MTLoRA layers.
        epoch: Number of finished epochs; 0 is the start.

    Returns:
        A row per module: `epoch`; `module`, its name; `singular_values` (n,), descending; `eigenvalue_phases` (n,), absolute
        angles of the eigenvalues in radians, 0 to pi, ascending (0: no rotation); `identity_distance`, ||T - I||_F / sqrt(n).
    """
    rows = []
    for name, layer in model.named_modules():
        if not isinstance(layer, MTLoraLayer):
            continue
        for adapter in layer.active_adapters:
            matrix = layer.get_transform(adapter) if adapter in layer.mtlora_A else None
            if matrix is None:
                continue
            t = matrix.detach().double().cpu()
            identity = torch.eye(len(t), dtype=t.dtype)
            rows.append(
                {
                    "epoch": epoch,
                    "module": name.removeprefix("base_model.model."),
                    "singular_values": _rounded(torch.linalg.svdvals(t)),
                    "eigenvalue_phases": _rounded(torch.linalg.eigvals(t).angle().abs().sort().values),
                    "identity_distance": _rounded((t - identity).norm() / len(t) ** 0.5),
                }
            )
    return rows


def _rounded(values: torch.Tensor) -> Any:
    return [float(f"{v:.5g}") for v in values.tolist()] if values.dim() else float(f"{values.item():.5g}")
