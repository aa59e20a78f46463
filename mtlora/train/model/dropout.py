"""The dropout of training: the same masks for a run whether it trains alone or in a cohort, on every kind of device.

PyTorch's fused kernels draw other numbers on a GPU than a mask that is drawn by itself, and they cannot draw for several runs at
once. So a mask is always drawn by itself here. On the CPU the numbers are those of `nn.Dropout` and of PyTorch's attention.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlora.base.errors import CohortUnsupported

# Dimensions of a tensor, by their number, that can be as wide as the batch: (rows, width, features), (rows, heads, width, width).
WIDE = {2: (), 3: (1,), 4: (2, 3)}
MASKS = "mtlora_masks"  # the attribute of a module that holds its masks


class Masks:
    """Draws the masks of the runs whose rows make up a batch: rows k n to (k + 1) n belong to run k of K.

    A run alone draws from PyTorch's own generator, so a model that also draws otherwise, as by `F.dropout`, gets fresh numbers
    there. Several runs draw from a generator for each different stream; such a model is refused.
    """

    def __init__(self, streams: Sequence[Hashable], device: torch.device) -> None:
        """Take the identity of each run's stream; runs with equal ones draw the same masks, which are drawn once."""
        self.runs, self.device = len(streams), device
        different = list(dict.fromkeys(streams))
        self.stream_of = torch.tensor([different.index(stream) for stream in streams], device=device)
        self.first = [streams.index(stream) for stream in different]  # a run of each stream
        own = self.runs > 1
        self.generators = [torch.Generator(device) if own else None for _ in different]  # None: PyTorch's own
        self.begin_batch(0, [0] * self.runs)

    def begin_step(self, seeds: Sequence[int]) -> None:
        """Begin an optimizer step with a seed for each run."""
        for generator, run in zip(self.generators, self.first, strict=True):
            if generator is None:
                torch.manual_seed(seeds[run])
            else:
                generator.manual_seed(seeds[run])

    def begin_batch(self, rows: int, widths: Sequence[int]) -> None:
        """Take the number of rows of all runs together, K n, and the width that each run's batch would have alone."""
        self.rows, self.widths = rows, widths
        self._untouched = self._pytorch_states()

    def end_batch(self) -> None:
        """Check the forward pass since `begin_batch`.

        Raises:
            CohortUnsupported: the model of several runs has drawn random numbers that are not of these masks.
        """
        if not all(map(torch.equal, self._untouched, self._pytorch_states())):
            raise CohortUnsupported(
                "the model draws random numbers outside of its nn.Dropout modules and its attention"
            )

    def check_rows(self, x: Tensor) -> None:
        """Check that x has rows of each run.

        Raises:
            CohortUnsupported: it has not, as position embeddings that all rows share.
        """
        if self.runs > 1 and x.shape[0] != self.rows:
            raise CohortUnsupported("the model computes with a tensor that belongs to no run")

    def drop(self, x: Tensor, rate: float) -> Tensor:
        """Return dropout of x, (K n, ...), at one rate for all runs; a run alone may drop from any shape."""
        return self.drop_each(x, [rate] * self.runs)

    def drop_each(self, x: Tensor, rates: Sequence[float]) -> Tensor:
        """Return dropout of x, (K n, ...), at a rate for each run.

        Raises:
            CohortUnsupported: as `check_rows`.
        """
        self.check_rows(x)
        rows, widest = x.shape[0] // self.runs, max(self.widths)
        # A layer may go on with the first token alone: such a tensor is as wide for every run.
        wide = [d for d in WIDE.get(x.dim(), ()) if x.shape[d] == widest]
        masks = []
        for generator, run in zip(self.generators, self.first, strict=True):
            shape = [rows, *x.shape[1:]]
            for dimension in wide:
                shape[dimension] = self.widths[run]
            mask, keep = x.new_empty(shape), 1.0 - rates[run]
            mask = mask.bernoulli_(keep, generator=generator).div_(keep) if rates[run] else mask.fill_(1.0)
            masks.append(_padded(mask, x.shape[1:]))
        # The mask of a single stream is broadcast to its runs, not copied.
        factors = masks[0] if len(masks) == 1 else torch.stack(masks)[self.stream_of]
        return (x.reshape(self.runs, rows, *x.shape[1:]) * factors).reshape(x.shape)

    def _pytorch_states(self) -> list[Tensor]:
        """Return the states of PyTorch's own generators, where several runs must leave them alone."""
        if self.runs == 1:
            return []
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [])]


class MaskedDropout(nn.Dropout):
    """`nn.Dropout` whose masks come from the `Masks` that `use_masks` gives it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return dropout of x in training, else x."""
        return getattr(self, MASKS).drop(x, self.p) if self.training and self.p else x


def use_masks(model: nn.Module, masks: Masks) -> None:
    """Let all dropout of a model draw from `masks`, instead of those of an earlier call.

    Replaces its `nn.Dropout` modules, and leaves the masks at every module for the attention function, which gets the module.
    """
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is nn.Dropout:
            module = MaskedDropout(module.p).train(module.training)
            model.set_submodule(name, module)
        setattr(module, MASKS, masks)


def masks_of(module: nn.Module) -> Masks | None:
    """Return the masks that `use_masks` left at a module."""
    masks: Any = getattr(module, MASKS, None)
    return masks


def _padded(mask: Tensor, shape: torch.Size) -> Tensor:
    """Pad the dimensions of a mask behind the first with zeros to a shape."""
    missing = [wanted - size for wanted, size in zip(shape, mask.shape[1:], strict=True)]
    return F.pad(mask, [side for end in reversed(missing) for side in (0, end)]) if any(missing) else mask
