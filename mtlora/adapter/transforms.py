"""The transformation matrix T of MTLoRA (arXiv 2403.07440, section 3).

A new structure is a new row of `STRUCTURES`; the config, the layers, the initialisations and the export follow from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """

    factors: str
    matrix: Callable[..., torch.Tensor | None]
    identity: float = 1.0
    trains_from_zero: bool = True


STRUCTURES: dict[str, Structure] = {
    "none": Structure("", lambda: None),
    "shim": Structure("C", lambda c: c),
    "icfm": Structure("C", lambda c: c @ c.mT, trains_from_zero=False),
    "ctcm": Structure("CD", lambda c, d: c @ d, trains_from_zero=False),
    "dtsm": Structure("CD", lambda c, d: c + d, identity=0.5),
}


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
