"""The library of fp32 matrix products on a CPU: PyTorch's default (MKL), or oneDNN where that is faster and as exact.

PyTorch has no setting for the library itself. It has one for the precision that oneDNN may use inside fp32 products,
`torch.backends.mkldnn.matmul.fp32_precision`, and every value but "ieee" also routes the products to oneDNN. On a CPU without
bf16 units the value "bf16" therefore changes the library alone: oneDNN still multiplies in fp32, on some AMD processors
up to 1.8 times as fast as MKL, on others hardly faster. On a CPU with such units (AMX) the products would really be rounded to
bf16. So "bf16" is set only after oneDNN has multiplied a few matrices as exactly as fp32 does. Every record names the library
that its run used.

PyTorch is imported inside the functions, because `mtlora.base` must be importable without it.
"""

from functools import lru_cache

TOLERANCE = 1e-6  # relative Frobenius error; fp32 products of these sizes have about 3e-7, bf16 about 2e-3


def use_fastest_products(choice: str) -> None:
    """Choose the library of fp32 matrix products on the CPU for this process.

    Args:
        choice: "auto" is oneDNN where its products are exact, on a machine without a GPU; "stock" is PyTorch's default.
    """
    import torch

    onednn = choice == "auto" and not torch.cuda.is_available() and onednn_is_fp32()
    set_fp32_matmul_precision("bf16" if onednn else "ieee")


@lru_cache(maxsize=1)
def onednn_is_fp32() -> bool:
    """Compare oneDNN's products with fp64 in the shapes of a forward and a backward pass (relative Frobenius error)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    before = fp32_matmul_precision()
    set_fp32_matmul_precision("bf16")
    try:
        for m, k, n in ((256, 768, 256), (64, 3072, 128), (768, 256, 768)):
            a = torch.randn(m, k, generator=generator)
            b = torch.randn(n, k, generator=generator)
            exact = a.double() @ b.double().T
            error = (torch.nn.functional.linear(a, b).double() - exact).norm() / exact.norm()
            if not error <= TOLERANCE:
                return False
        return True
    except RuntimeError:  # built without oneDNN
        return False
    finally:
        set_fp32_matmul_precision(before)


def fp32_matmul_precision() -> str:
    """Return the precision that oneDNN may use inside fp32 products: "ieee", "tf32" or "bf16"."""
    import torch

    return str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]


def set_fp32_matmul_precision(precision: str) -> None:
    """Set the precision that oneDNN may use inside fp32 products; every value but "ieee" also routes the products to oneDNN."""
    import torch

    torch.backends.mkldnn.matmul.fp32_precision = precision  # type: ignore[attr-defined]
