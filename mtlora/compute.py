"""Where and how a run computes: device, threads, and the fastest fp32 matrix product that really is fp32."""

from collections.abc import Callable
from functools import lru_cache

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from mtlora.config import RunConfig
from mtlora.errors import UserError
from mtlora.provenance import threads_allowed

GEMM_TOLERANCE = 1e-6  # relative Frobenius error; fp32 products of these sizes have about 3e-7, bf16 about 2e-3


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


def use_fastest_products(config: RunConfig) -> None:
    """Choose the library of fp32 matrix products on the CPU for this process: oneDNN where that is permitted and exact.

    On CPUs without AMX the setting that permits bf16 only changes the library: oneDNN still multiplies in fp32, on AMD about
    twice as fast as MKL. On a CPU with AMX it would really round to bf16, so it is used only where it measures as fp32.
    """
    onednn = config.compute.cpu_gemm == "auto" and not torch.cuda.is_available() and onednn_is_fp32()
    set_fp32_matmul_precision("bf16" if onednn else "ieee")


@lru_cache(maxsize=1)
def onednn_is_fp32() -> bool:
    """Compare oneDNN's products with fp64 in the shapes of a forward and a backward pass (relative Frobenius error)."""
    generator = torch.Generator().manual_seed(0)
    before = fp32_matmul_precision()
    set_fp32_matmul_precision("bf16")
    try:
        for m, k, n in ((256, 768, 256), (64, 3072, 128), (768, 256, 768)):
            a = torch.randn(m, k, generator=generator)
            b = torch.randn(n, k, generator=generator)
            exact = a.double() @ b.double().T
            error = (torch.nn.functional.linear(a, b).double() - exact).norm() / exact.norm()
            if not error <= GEMM_TOLERANCE:
                return False
        return True
    except RuntimeError:  # built without oneDNN
        return False
    finally:
        set_fp32_matmul_precision(before)


def fp32_matmul_precision() -> str:
    """Return what oneDNN may use inside fp32 products: "ieee", "tf32" or "bf16"."""
    return str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]


def set_fp32_matmul_precision(precision: str) -> None:
    """Set what oneDNN may use inside fp32 products; anything but "ieee" also routes the products to oneDNN."""
    torch.backends.mkldnn.matmul.fp32_precision = precision  # type: ignore[attr-defined]


def saved_bytes(model: nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """Return the bytes that a forward pass of a model keeps for the backward pass; parameters and buffers are not counted."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()  # held, as the places of freed tensors would be used again
    del loss
    return sum(size for place, size in kept.items() if place not in own)
