"""The transformation matrix T of MTLoRA (arXiv 2403.07440, section 3).

A new structure is a new row of `STRUCTURES`; the config, the layers, the initialisations and the export follow from it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch


@dataclass(frozen=True)
class Structure:
    """How T is built from its trainable factors.

    `matrix` must treat each (r, r) of factors with leading dimensions by itself, because the slices of a fused projection and
    the runs of a cohort are stacked, and keep the dtype, also in half precision; `tests/adapter/test_structures.py` checks it.

    Attributes:
        factors: The letters of the trainable factors, in the order in which `matrix` takes them.
        matrix: T as a function of the factors, each of shape (..., r, r); None stands for the fixed T = I.
        identity: The number x for which factors equal to x I give T = I.
        parameters: The number of free parameters of T (r, r) as a function of r, where it is not the number of entries of the
            factors; tables count it.
        squared_gain: The square of `gain` as a function of r; None means that it is measured.
    """

    factors: str
    matrix: Callable[..., torch.Tensor | None]
    identity: float = 1.0
    parameters: Callable[[int], int] | None = None
    squared_gain: Callable[[int], float] | None = None

    @cached_property
    def trains_from_zero(self) -> bool:
        """Whether T is 0 and each factor gets a gradient when all factors are 0.

        A product of factors gets none: the gradient of each factor is a multiple of the others.
        """
        # A configuration may be made under `no_grad`, `inference_mode` or on the meta device.
        with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
            zeros = [torch.zeros(2, 2, requires_grad=True) for _ in self.factors]
            t = self.matrix(*zeros)
            if t is None or t.detach().any() or not t.requires_grad:
                return False
            gradients = torch.autograd.grad(t.sum(), zeros, allow_unused=True)
            return all(gradient is not None and bool(gradient.any()) for gradient in gradients)


# The squared gains: the entries of C and D are uniform with variance 1 / (3 r) and fourth moment 1 / (5 r^2), so
# E ||C||^2 = r / 3, E ||C D||^2 = r / 9, and E ||C C^T||^2 = r (r - 1) / (9 r) from the entries off the diagonal plus
# 1 / 5 + (r - 1) / 9 from those on it; all divided by r.
STRUCTURES: dict[str, Structure] = {
    "none": Structure("", lambda: None, squared_gain=lambda r: 1.0),
    "shim": Structure("C", lambda c: c, squared_gain=lambda r: 1 / 3),
    "icfm": Structure("C", lambda c: c @ c.mT, squared_gain=lambda r: 2 / 9 - 1 / (45 * r)),
    "ctcm": Structure("CD", lambda c, d: c @ d, squared_gain=lambda r: 1 / 9),
    "dtsm": Structure("CD", lambda c, d: c + d, identity=0.5, squared_gain=lambda r: 2 / 3),
}
MEASURED_ENTRIES = 1_000_000  # of T, drawn to measure what has no formula


@lru_cache
def gain(structure: str, r: int) -> float:
    """Return the factor by which T of shape (r, r) changes the size of A at the `official` start: sqrt(E ||T A||^2 / E ||A||^2).

    The norms are Frobenius norms. The rows of A are independent and of equal variance, so the ratio is E ||T||^2 / r. A
    structure without a formula is measured.
    """
    known = STRUCTURES[structure].squared_gain
    if known is not None:
        return math.sqrt(known(r))
    t = _draws(structure, r)
    return round(math.sqrt(float(t.square().sum()) / (len(t) * r)), 3)


@lru_cache
def first_step(structure: str, r: int) -> float:
    """Return the size ||dW|| of the first update at the `official` start, divided by LoRA's at the same learning rate and alpha.

    B starts at 0, and the first step of Adam moves each of its entries by the learning rate, in the direction of the gradient's
    sign. So a row of dW is proportional to s^T T A, where s = sign(T v) and v = A g, with g a row of the gradient of W. Over the
    draws of A, v is nearly an isotropic Gaussian vector. With M = T T^T,

        E ||s^T T||^2 = E sum_jk M_jk (2 / pi) arcsin(M_jk / sqrt(M_jj M_kk)),

    whose diagonal is r times the squared `gain`. The other terms are never negative, because the step in B depends on T: they
    make the first step larger than the gain by a factor of 1.26 (shim), 1.25 (dtsm), 1.42 (ctcm) and 1.51 (icfm) at r = 8. The
    sum is measured.
    """
    if not STRUCTURES[structure].factors:
        return 1.0
    t = _draws(structure, r)
    m = t @ t.mT
    size = m.diagonal(dim1=-2, dim2=-1).sqrt()
    cosine = (m / (size[..., :, None] * size[..., None, :])).clamp(-1, 1)
    alignment = float((m * cosine.asin()).sum() * 2 / math.pi / m.diagonal(dim1=-2, dim2=-1).sum())
    return round(gain(structure, r) * math.sqrt(alignment), 3)


def _draws(structure: str, r: int) -> torch.Tensor:
    """Return draws (n, r, r) of T at the `official` start, in float64, the same on every machine."""
    count, bound = math.ceil(MEASURED_ENTRIES / r**2), 1 / math.sqrt(r)
    stream = torch.Generator().manual_seed(0)
    shape = (count, r, r)
    factors = [torch.empty(shape).uniform_(-bound, bound, generator=stream) for _ in STRUCTURES[structure].factors]
    matrix = STRUCTURES[structure].matrix(*(factor.double() for factor in factors))
    assert matrix is not None
    return matrix


def transform(structure: str, factors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return T, or None for T = I.

    Args:
        structure: A key of `STRUCTURES`.
        factors: The trainable factors, each (n, n), or (k, r, r) for k separate transformations.

    Returns:
        T of shape (n, n). Factors of shape (k, r, r) give the block-diagonal T of shape (k r, k r), so that callers
        treat both cases alike.
    """
    matrix = STRUCTURES[structure].matrix(*factors)
    return torch.block_diag(*matrix) if matrix is not None and matrix.dim() == 3 else matrix
