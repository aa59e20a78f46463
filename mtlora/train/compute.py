"""Where and how a run computes: device, threads, and the fastest fp32 matrix product that really is fp32."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from mtlora.base.cpu import threads_allowed
from mtlora.base.errors import UserError
from mtlora.config.schema import RunConfig
from mtlora.train.onednn import use_fastest_products


def make_accelerator(config: RunConfig) -> Accelerator:
    """Make the Accelerator of a run; settings of an earlier run in this process are forgotten.

    Raises:
        UserError: `compute.device=cuda` where PyTorch sees no CUDA device.
    """
    if config.compute.device == "cuda" and not torch.cuda.is_available():
        raise UserError("compute.device=cuda: this PyTorch sees no CUDA device: use compute.device=cpu or auto")
    torch.set_num_threads(config.compute.threads or threads_allowed())
    use_fastest_products(config)
    AcceleratorState._reset_state(reset_partial_state=True)
    mixed = "bf16" if config.train.precision == "bf16" else "no"
    return Accelerator(mixed_precision=mixed, cpu=config.compute.device == "cpu" or not torch.cuda.is_available())


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Copy a batch to a device; to a GPU from pinned memory, so that nobody waits for the copy."""
    if device.type == "cuda":
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
