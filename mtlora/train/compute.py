"""The device, the threads and the library of matrix products that a run computes with."""

import logging
import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from mtlora.base.cpu import processor, threads_allowed
from mtlora.base.errors import UserError
from mtlora.base.onednn import fp32_matmul_precision, use_fastest_products
from mtlora.config.schema import RunConfig
from mtlora.records.schema import Provenance

log = logging.getLogger(__name__)


def make_accelerator(config: RunConfig) -> Accelerator:
    """Make the Accelerator of a run, and reset the settings of an earlier run in this process.

    Raises:
        UserError: `compute.device=cuda` where PyTorch sees no CUDA device.
    """
    if config.compute.device == "cuda" and not torch.cuda.is_available():
        raise UserError("compute.device=cuda: this PyTorch sees no CUDA device: use compute.device=cpu or auto")
    # Accelerate reads them in many places, even in place of its arguments; only the configuration may change a run.
    if ignored := [name for name in os.environ if name.startswith("ACCELERATE_")]:
        log.info("%s: ignored, because only the configuration may change a run", ", ".join(ignored))
    for name in ignored:
        del os.environ[name]
    torch.set_num_threads(config.compute.threads or threads_allowed())
    use_fastest_products(config.compute.cpu_gemm)
    AcceleratorState._reset_state(reset_partial_state=True)
    mixed = "bf16" if config.train.precision == "bf16" else "no"
    return Accelerator(mixed_precision=mixed, cpu=config.compute.device == "cpu" or not torch.cuda.is_available())


def computed_with(device: torch.device) -> Provenance:
    """Return the device, the threads and the library of fp32 products, for a run's record."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "fp32_matmul": "onednn" if fp32_matmul_precision() == "bf16" else "stock",
    }


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Copy a batch to a device; to a GPU from pinned memory, so that the copy does not block."""
    if device.type == "cuda":
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
