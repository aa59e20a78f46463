"""The transformation matrix T of MTLoRA (arXiv 2403.07440, section 3).

A new structure is a new row of `STRUCTURES`; the config, the layers, the initialisations and the export follow from it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class Structure:
    """How T is built from its trainable factors.

    Attributes:
        factors: The letters of the trainable factors, in the order in which `matrix` takes them.
        matrix: T as a function of the factors, each of shape (..., r, r); None stands for the fixed T = I.
        identity: The number x for which factors equal to x I give T = I.
        trains_from_zero: Whether T gets a gradient when all factors are 0. A product of factors does not: the gradient
            of each factor is a multiple of the others.
        squared_gain: The square of `gain` as a function of r; None means that it is measured.
    """

    factors: str
    matrix: Callable[..., torch.Tensor | None]
    identity: float = 1.0
    trains_from_zero: bool = True
    squared_gain: Callable[[int], float] | None = None


# The squared gains: the entries of C and D are uniform with variance 1 / (3 r) and fourth moment 1 / (5 r^2), so
# E ||C||^2 = r / 3, E ||C D||^2 = r / 9, and E ||C C^T||^2 = r (r - 1) / (9 r) from the entries off the diagonal plus
# 1 / 5 + (r - 1) / 9 from those on it; all divided by r.
STRUCTURES: dict[str, Structure] = {
    "none": Structure("", lambda: None, squared_gain=lambda r: 1.0),
    "shim": Structure("C", lambda c: c, squared_gain=lambda r: 1 / 3),
    "icfm": Structure("C", lambda c: c @ c.mT, trains_from_zero=False, squared_gain=lambda r: 2 / 9 - 1 / (45 * r)),
    "ctcm": Structure("CD", lambda c, d: c @ d, trains_from_zero=False, squared_gain=lambda r: 1 / 9),
    "dtsm": Structure("CD", lambda c, d: c + d, identity=0.5, squared_gain=lambda r: 2 / 3),
}
MEASURED_ENTRIES = 4_000_000  # of T, drawn to measure a gain that has no formula


@lru_cache
def gain(structure: str, r: int) -> float:
    """Return the factor by which T of shape (r, r) changes the size of A at the `official` start: sqrt(E ||T A||^2 / E ||A||^2).

    The norms are Frobenius norms. The rows of A are independent and of equal variance, so the ratio is E ||T||^2 / r. The first
    update of an adapter is larger than LoRA's times this factor, because Adam's step in B is the sign of a gradient that depends
    on T: by 1.15 to 1.27 at r = 2, and by 1.25 (shim, dtsm), 1.43 (ctcm) and 1.51 (icfm) at r = 8; see
    tests/train/test_first_step.py.

    A structure without a formula is measured with draws of a fixed stream, and rounded, so that every machine gets the same.
    """
    known = STRUCTURES[structure].squared_gain
    if known is not None:
        return math.sqrt(known(r))
    count, bound = math.ceil(MEASURED_ENTRIES / r**2), 1 / math.sqrt(r)
    stream = torch.Generator().manual_seed(0)
    factors = [
        torch.empty(count, r, r).uniform_(-bound, bound, generator=stream) for _ in STRUCTURES[structure].factors
    ]
    matrix = STRUCTURES[structure].matrix(*factors)
    assert matrix is not None
    return round(math.sqrt(float(matrix.double().square().sum()) / (count * r)), 3)


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
