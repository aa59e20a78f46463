"""Which library computes fp32 matrix products on a CPU."""

from functools import lru_cache

import torch

from mtlora.config.schema import RunConfig

GEMM_TOLERANCE = 1e-6  # relative Frobenius error; fp32 products of these sizes have about 3e-7, bf16 about 2e-3


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
