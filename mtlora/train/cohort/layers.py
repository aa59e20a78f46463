"""Modules whose parameters have a leading dimension of runs: rows k n to (k + 1) n of a batch belong to run k.

Sizes in shapes: K runs, n rows per run, s adapted slices of a fused projection (else 1), h outputs per slice, r greatest rank.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlora.adapter.layer import Linear
from mtlora.adapter.transforms import STRUCTURES
from mtlora.base.errors import CohortUnsupported
from mtlora.train.model.dropout import Masks
from mtlora.train.model.methods import ADAPTER

# A parameter of a run and its place in a stack: the parameter, the stack, the index in the stack, and the shape there.
Place = tuple[Tensor, nn.Parameter, Any, tuple[int, ...]]


class CohortLinear(nn.Module):
    """The adapted layers of one name from all runs, around their common frozen base layer: ``h = W x + (alpha / r) B T A x``.

    Matrices of smaller rank are padded with zeros, which stay zero, as their gradients have a factor of zero. LoRA has T = I.
    """

    scaling: Tensor
    identity: Tensor
    rows: Tensor

    def __init__(self, layers: Sequence[Linear], masks: Masks) -> None:
        """Make room for the adapters of `layers`, one per run.

        Raises:
            CohortUnsupported: the adapters cannot be stacked.
        """
        super().__init__()
        first = layers[0]
        self.base_layer, self.masks = first.get_base_layer(), masks
        self.slices = first.slices[ADAPTER]
        s, h = sum(self.slices), first.out_features // len(self.slices)
        if any(layer.slices[ADAPTER] != self.slices for layer in layers):
            raise CohortUnsupported("their adapted slices differ")
        if s > 1 and any(c.dim() == 2 for layer in layers for c in _factors(layer).values()):
            raise CohortUnsupported("fused_transform=joint mixes the slices of a projection")
        self.ranks = [layer.r[ADAPTER] for layer in layers]
        k, r, like = len(layers), max(self.ranks), first.weight_of("A", ADAPTER)
        self.A = nn.Parameter(like.new_zeros(k, s, r, first.in_features))
        self.B = nn.Parameter(like.new_zeros(k, s, h, r))
        self.factors = nn.ParameterDict()  # "shim.C": (runs of the structure, s, r, r)
        self.structures: dict[str, int] = {}  # structure -> its number of runs
        self.targets: list[
            tuple[str, int]
        ] = []  # of each run: its structure, and its place among the runs of that structure
        for layer in layers:
            structure = layer.structure[ADAPTER]
            self.targets.append((structure, self.structures.get(structure, 0)))
            self.structures[structure] = self.targets[-1][1] + 1
        first_of = dict(zip(self.structures, [0, *accumulate(self.structures.values())], strict=False))
        rows = torch.tensor([first_of[structure] + place for structure, place in self.targets], device=like.device)
        self.register_buffer(
            "rows", rows
        )  # the row of each run's T in `transforms`, where runs of one structure are neighbours
        for structure, count in self.structures.items():
            for letter in STRUCTURES[structure].factors:
                self.factors[f"{structure}_{letter}"] = nn.Parameter(like.new_zeros(count, s, r, r))
        scaling = torch.tensor([layer.scaling[ADAPTER] for layer in layers], dtype=like.dtype, device=like.device)
        self.register_buffer("scaling", scaling.view(k, 1, 1, 1))
        self.register_buffer("identity", torch.eye(r, dtype=like.dtype, device=like.device).expand(s, r, r))
        self.rates = [getattr(layer.mtlora_dropout[ADAPTER], "p", 0.0) for layer in layers]

    def places(self, run: int, layer: Linear) -> list[Place]:
        """Return the places of a run's parameters in the stacks."""
        s, r = self.A.shape[1], self.ranks[run]
        structure, place = self.targets[run]
        matrix = (place, slice(None), slice(r), slice(r))
        return [
            (layer.weight_of("A", ADAPTER), self.A, (run, slice(None), slice(r)), (s, r, self.A.shape[3])),
            (layer.weight_of("B", ADAPTER), self.B, (run, slice(None), slice(None), slice(r)), (s, self.B.shape[2], r)),
            *(
                (factor, self.factors[f"{structure}_{letter}"], matrix, (s, r, r))
                for letter, factor in _factors(layer).items()
            ),
        ]

    def transforms(self) -> Tensor:
        """Return T of every run and slice, (K, s, r, r)."""
        parts = []
        for structure, count in self.structures.items():
            factors = [self.factors[f"{structure}_{letter}"] for letter in STRUCTURES[structure].factors]
            matrix = STRUCTURES[structure].matrix(*factors)
            parts.append(self.identity.expand(count, -1, -1, -1) if matrix is None else matrix)
        return torch.cat(parts)[self.rows]

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for x (K n, ..., in), each run's rows with its own adapter.

        Raises:
            CohortUnsupported: x has not the rows of all runs, for example where a model passes shared position embeddings.
        """
        runs = len(self.ranks)
        self.masks.check_rows(x)
        result = self.base_layer(x.reshape(runs, -1, x.shape[-1]))
        kind = result.dtype  # the lower precision under autocast
        adapted = self.masks.drop_each(x, self.rates) if self.training and any(self.rates) else x
        a = self.A.flatten(1, 2).to(kind)
        bt = self._expanded(self.scaling * (self.B @ self.transforms())).to(kind)
        hidden = torch.bmm(adapted.reshape(runs, -1, x.shape[-1]).to(kind), a.mT)  # (K, rows, s r)
        return torch.baddbmm(result, hidden, bt.mT).view(*x.shape[:-1], -1)

    def _expanded(self, bt: Tensor) -> Tensor:
        """Return (K, out, s r): each slice in its own rows and columns, 0 elsewhere."""
        if len(self.slices) == 1:
            return bt[:, 0]
        h, out, blocks, columns = bt.shape[2], len(self.slices) * bt.shape[2], iter(bt.unbind(1)), []
        for position in (i for i, adapted in enumerate(self.slices) if adapted):
            columns.append(F.pad(next(blocks), (0, 0, position * h, out - (position + 1) * h)))
        return torch.cat(columns, 2)


class RunLinear(nn.Module):
    """The linear layers of one name from all runs' heads: weight (K, out, in), bias (K, out)."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """Make room for `layers`, one per run."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(torch.stack([layer.weight for layer in layers])))
        self.bias: nn.Parameter | None = None
        if layers[0].bias is not None:
            self.bias = nn.Parameter(torch.zeros_like(torch.stack([layer.bias for layer in layers])))

    def places(self, run: int, layer: nn.Linear) -> list[Place]:
        """Return the places of a run's parameters in the stacks."""
        found: list[Place] = [(layer.weight, self.weight, (run,), tuple(layer.weight.shape))]
        if self.bias is not None:
            found.append((layer.bias, self.bias, (run,), tuple(layer.bias.shape)))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for x (K n, ..., in)."""
        runs = len(self.weight)
        rows = x.reshape(runs, -1, x.shape[-1])
        result = (
            torch.bmm(rows, self.weight.mT)
            if self.bias is None
            else torch.baddbmm(self.bias[:, None], rows, self.weight.mT)
        )
        return result.view(*x.shape[:-1], -1)


def _factors(layer: Linear) -> dict[str, nn.Parameter]:
    """Return the factors C and D of a layer, as far as its structure has them."""
    return {letter: layer.weight_of(letter, ADAPTER) for letter in "CD" if ADAPTER in layer.matrices(letter)}
