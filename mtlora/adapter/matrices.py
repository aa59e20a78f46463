"""The trained matrices of an adapter, each in a module of its own.

accelerate's offload, FSDP and ZeRO-3 bring the parameters of a module in before its `forward` and take them away after it. So
each `forward` reads its own weight only, and returns a new tensor, never the weight or a view of it.
"""

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn


class Matrix(nn.Module):
    """C or D: a weight of any shape."""

    def __init__(self, *shape: int) -> None:
        """Make room for the weight; the layer gives it its starting values."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))

    def forward(self) -> torch.Tensor:
        """Return a copy of the weight."""
        return self.weight.clone()


class LinearA(Matrix):
    """A of a linear layer: (k r, in)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return ``A x``, (..., k r)."""
        return F.linear(x, self.weight)


class EmbeddingA(Matrix):
    """A of an embedding: (r, num_embeddings)."""

    def forward(  # type: ignore[override]
        self, ids: torch.Tensor, padding_idx: int | None, scale_grad_by_freq: bool
    ) -> torch.Tensor:
        """Return the columns of A at the token ids, (..., r)."""
        return F.embedding(ids, self.weight.T, padding_idx=padding_idx, scale_grad_by_freq=scale_grad_by_freq)


class MatrixB(Matrix):
    """B: (k out / n, r), the adapted slices stacked."""

    def forward(self, t: torch.Tensor | None, slices: Sequence[bool]) -> torch.Tensor:  # type: ignore[override]
        """Return ``(B T)^T``, (k r, out), where t is T, (k r, k r), or None for T = I.

        It is contiguous, so that autograd computes its gradient as (A x)^T g, not as the slower product with the wide g^T.
        """
        b = expanded(self.weight, slices)
        return (b if t is None else b @ t).mT.clone(memory_format=torch.contiguous_format)


def expanded(b: torch.Tensor, slices: Sequence[bool]) -> torch.Tensor:
    """Return B as (out, k r): B_i in the rows of its slice and the columns of its ranks, 0 elsewhere.

    Args:
        b: (k out / n, r), the adapted slices stacked.
        slices: one flag for each of the n slices of the output, True where it is adapted.
    """
    if len(slices) == 1:
        return b
    height = b.shape[0] // sum(slices)
    blocks = iter(b.split(height))
    # a block without columns adds only the zero rows of a slice that is not adapted
    return torch.block_diag(*(next(blocks) if adapted else b.new_empty(height, 0) for adapted in slices))


def with_current_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter file, or of a model, under today's names: earlier ones lack the last part, ``.weight``."""
    old = r"\.mtlora_[ABCD](\.(?!weight$)[^.]+)?$"  # in a model the adapter's name follows
    return {re.sub(old, r"\g<0>.weight", name): tensor for name, tensor in tensors.items()}
