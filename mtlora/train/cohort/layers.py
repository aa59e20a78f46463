"""Modules whose parameters have a leading dimension of runs: rows k n to (k + 1) n of a batch belong to run k.

Sizes in shapes: K runs, n rows per run, s adapted slices of a fused projection (else 1), h outputs per slice, r the rank.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlora.adapter.layer import Linear
from mtlora.adapter.transforms import STRUCTURES
from mtlora.base.errors import CohortUnsupported
from mtlora.train.model.dropout import Masks
from mtlora.train.model.methods import ADAPTER

FROZEN = "_frozen"


class Place(NamedTuple):
    """A parameter of a run and its place in a stack: `stack[row]` has the parameter's values, in their order."""

    parameter: Tensor
    stack: nn.Parameter
    row: int


class CohortLinear(nn.Module):
    """The adapted layers of one name from all runs, around their common frozen base layer: ``h = W x + (alpha / r) B T A x``.

    All runs have the same rank. LoRA has T = I.
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
        k, r, like = len(layers), first.r[ADAPTER], first.weight_of("A", ADAPTER)
        self.A = nn.Parameter(like.new_zeros(k, s, r, first.in_features))
        self.B = nn.Parameter(like.new_zeros(k, s, h, r))
        self.factors = nn.ParameterDict()  # "shim_C": (runs of the kind, s, r, r)
        kinds = [_kind(layer) for layer in layers]
        self.kinds = {
            kind: (layer.structure[ADAPTER], kinds.count(kind)) for kind, layer in zip(kinds, layers, strict=True)
        }
        order = list(self.kinds)
        # Of each run: its kind, and its place among the runs of that kind.
        self.targets = [(kind, kinds[:run].count(kind)) for run, kind in enumerate(kinds)]
        sorted_runs = sorted(range(k), key=lambda run: order.index(kinds[run]))
        # The row of each run's T in `transforms`, where runs of one kind are neighbours.
        self.register_buffer("rows", torch.tensor(sorted_runs, device=like.device).argsort())
        for kind, (structure, count) in self.kinds.items():
            for letter in STRUCTURES[structure].factors:
                trained = not kind.endswith(FROZEN)
                self.factors[f"{kind}_{letter}"] = nn.Parameter(like.new_zeros(count, s, r, r), trained)
        scaling = torch.tensor([layer.scaling[ADAPTER] for layer in layers], dtype=like.dtype, device=like.device)
        self.register_buffer("scaling", scaling.view(k, 1, 1, 1))
        self.register_buffer("identity", torch.eye(r, dtype=like.dtype, device=like.device).expand(s, r, r))
        self.rates = [getattr(layer.mtlora_dropout[ADAPTER], "p", 0.0) for layer in layers]

    def places(self, run: int, layer: Linear) -> list[Place]:
        """Return the places of a run's parameters in the stacks."""
        kind, place = self.targets[run]
        factors = _factors(layer).items()
        return [
            Place(layer.weight_of("A", ADAPTER), self.A, run),
            Place(layer.weight_of("B", ADAPTER), self.B, run),
            *(Place(factor, self.factors[f"{kind}_{letter}"], place) for letter, factor in factors),
        ]

    def transforms(self) -> Tensor:
        """Return T of every run and slice, (K, s, r, r)."""
        parts = []
        for kind, (structure, count) in self.kinds.items():
            factors = [self.factors[f"{kind}_{letter}"] for letter in STRUCTURES[structure].factors]
            matrix = STRUCTURES[structure].matrix(*factors)
            parts.append(self.identity.expand(count, -1, -1, -1) if matrix is None else matrix)
        return torch.cat(parts)[self.rows]

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for x (K n, ..., in), each run's rows with its own adapter.

        Raises:
            CohortUnsupported: x has not the rows of all runs, for example where a model passes shared position embeddings.
        """
        runs = len(self.targets)
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
        found = [Place(layer.weight, self.weight, run)]
        if self.bias is not None:
            found.append(Place(layer.bias, self.bias, run))
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


def _kind(layer: Linear) -> str:
    """Return the structure of a layer's T, with a mark if its factors keep their start."""
    frozen = any(not factor.requires_grad for factor in _factors(layer).values())
    return layer.structure[ADAPTER] + FROZEN * frozen


def _factors(layer: Linear) -> dict[str, nn.Parameter]:
    """Return the factors C and D of a layer, as far as its structure has them."""
    return {letter: layer.weight_of(letter, ADAPTER) for letter in "CD" if ADAPTER in layer.matrices(letter)}
