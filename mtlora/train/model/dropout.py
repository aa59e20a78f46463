"""The dropout of training: the same masks for a run whether it trains alone or in a cohort, on every kind of device.

On a GPU, PyTorch's fused kernels draw other random numbers than a separate call that draws a mask, and they cannot draw for
several runs at once. So masks are always drawn separately here. On the CPU they equal those of `nn.Dropout` and of
PyTorch's attention.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlora.base.errors import CohortUnsupported

# Number of dimensions -> those that can have the width of the batch: (rows, width, features), (rows, heads, width, width).
WIDE = {2: (), 3: (1,), 4: (2, 3)}
MASKS = "mtlora_masks"  # the attribute of a module that `use_masks` sets


class Masks:
    """Draws the masks of the runs whose rows make up a batch: rows k n to (k + 1) n belong to run k of K.

    A run alone draws from PyTorch's global generator, which a model may also use directly, for example by `F.dropout`. Several
    runs draw from one generator for each different stream, and `end_batch` rejects a model that uses the global generator.
    """

    def __init__(self, streams: Sequence[Hashable], device: torch.device) -> None:
        """Take the identity of each run's stream; for runs with the same stream the masks are drawn once."""
        self.runs, self.device = len(streams), device
        different = list(dict.fromkeys(streams))
        self.stream_of = torch.tensor([different.index(stream) for stream in streams], device=device)
        self.first = [streams.index(stream) for stream in different]  # the first run of each stream
        own = self.runs > 1
        self.generators = [torch.Generator(device) if own else None for _ in different]  # None: the global generator
        self.begin_batch(0, [0] * self.runs)

    def begin_step(self, seeds: Sequence[int]) -> None:
        """Seed the generators for an optimizer step, with a seed for each run."""
        for generator, run in zip(self.generators, self.first, strict=True):
            if generator is None:
                torch.manual_seed(seeds[run])
            else:
                generator.manual_seed(seeds[run])

    def begin_batch(self, rows: int, widths: Sequence[int]) -> None:
        """Take the number of rows of all runs, K n, and the width that the batch of each run would have alone."""
        self.rows, self.widths = rows, widths
        self._untouched = self._pytorch_states()

    def end_batch(self) -> None:
        """Check the forward pass since `begin_batch`.

        Raises:
            CohortUnsupported: the model of several runs has drawn random numbers from the global generator.
        """
        if not all(map(torch.equal, self._untouched, self._pytorch_states())):
            raise CohortUnsupported(
                "the model draws random numbers outside of its nn.Dropout modules and its attention"
            )

    def check_rows(self, x: Tensor) -> None:
        """Check that x has the rows of all runs.

        Raises:
            CohortUnsupported: it has other rows, for example position embeddings that all rows share.
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
        # A tensor of the first tokens only (`drop_unread_tokens`) has the same width for every run.
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
        """Return the states of PyTorch's global generators; an empty list for a run alone, which may use them."""
        if self.runs == 1:
            return []
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [])]


class MaskedDropout(nn.Dropout):
    """`nn.Dropout` whose masks come from the `Masks` that `use_masks` gives it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return dropout of x in training, else x."""
        return getattr(self, MASKS).drop(x, self.p) if self.training and self.p else x


def use_masks(model: nn.Module, masks: Masks) -> None:
    """Let all dropout of a model draw from `masks`, which replace the masks of an earlier call.

    Replaces the `nn.Dropout` modules, and sets the masks as an attribute of every module, for the attention function.
    """
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is nn.Dropout:
            module = MaskedDropout(module.p).train(module.training)
            model.set_submodule(name, module)
        setattr(module, MASKS, masks)


def masks_of(module: nn.Module) -> Masks | None:
    """Return the masks that `use_masks` set at a module; None if there are none."""
    masks: Any = getattr(module, MASKS, None)
    return masks


def _padded(mask: Tensor, shape: torch.Size) -> Tensor:
    """Pad all dimensions of a mask except the first with zeros to a shape."""
    missing = [wanted - size for wanted, size in zip(shape, mask.shape[1:], strict=True)]
    return F.pad(mask, [side for end in reversed(missing) for side in (0, end)]) if any(missing) else mask
