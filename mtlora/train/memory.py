"""The peak memory of a run."""

import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory (on Linux; elsewhere the peak is that of the whole process)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory since the reset: allocated on the GPU if one is used, else resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def saved_bytes(model: nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without the model's parameters and buffers."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()  # keeps the tensors alive: freed memory would be reused, and counted once
    del loss
    return sum(size for place, size in kept.items() if place not in own)
