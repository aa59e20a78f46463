"""The dropout of training: the same masks for a run whether it trains alone or in a cohort, on every kind of device.

PyTorch's fused kernels cannot draw for several runs at once, and on a CPU its Bernoulli numbers take more time than the
arithmetic of dropout. So masks are drawn here, with 16 random bits a value, from generators of their own. They differ from the
masks of `nn.Dropout`, and the masks of a GPU differ from those of a CPU.

A rate p is rounded to `round(65536 p) / 65536`, at most 1 / 131072 from p. Kept values are divided by 1 minus the rounded rate,
so the expectation of dropout is exact.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtlora.base.errors import CohortUnsupported

# Number of dimensions -> those that can have the width of the batch: (rows, width, features), (rows, heads, width, width).
WIDE = {2: (), 3: (1,), 4: (2, 3)}
LEVELS = 2**16  # of a random number of 16 bits
MASKS = "mtlora_masks"  # the attribute of a module that `use_masks` sets


class Masks:
    """Draws the masks of the runs whose rows make up a batch: rows k n to (k + 1) n belong to run k of K.

    There is one generator for each different stream. The model of a run alone may also use PyTorch's global generator directly,
    for example by `F.dropout`; `end_batch` rejects a model of several runs that does.
    """

    def __init__(self, streams: Sequence[Hashable], device: torch.device) -> None:
        """Take the identity of each run's stream; for runs with the same stream the masks are drawn once."""
        self.runs, self.device = len(streams), device
        different = list(dict.fromkeys(streams))
        self.stream_of = torch.tensor([different.index(stream) for stream in streams], device=device)
        self.first = [streams.index(stream) for stream in different]  # the first run of each stream
        self.generators = [torch.Generator(device) for _ in different]
        self.begin_batch(0, [0] * self.runs)

    def begin_step(self, seeds: Sequence[int]) -> None:
        """Seed the generators for an optimizer step, with a seed for each run; for a run alone also the global generator."""
        for generator, run in zip(self.generators, self.first, strict=True):
            generator.manual_seed(seeds[run])
        if self.runs == 1:
            torch.manual_seed(seeds[0] ^ 1)  # the same seed would repeat the bits of the masks

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
        """Return dropout of x, (K n, ...), at a rate for each run, from 0 to 1.

        Raises:
            CohortUnsupported: as `check_rows`.
        """
        self.check_rows(x)
        rows, widest = x.shape[0] // self.runs, max(self.widths)
        # A tensor of the first tokens only (`drop_unread_tokens`) has the same width for every run.
        wide = [d for d in WIDE.get(x.dim(), ()) if x.shape[d] == widest]
        masks = x.new_zeros(len(self.generators), rows, *x.shape[1:])  # 0 where a run's own batch is narrower
        for index, (generator, run) in enumerate(zip(self.generators, self.first, strict=True)):
            mask = masks[index]
            for dimension in wide:
                mask = mask.narrow(dimension, 0, self.widths[run])
            draw(mask, rates[run], generator)
        # The mask of a single stream is broadcast to its runs, not copied.
        factors = masks if len(masks) in (1, self.runs) else masks[self.stream_of]
        return scaled(x.reshape(self.runs, rows, *x.shape[1:]) * factors, rates).reshape(x.shape)

    def _pytorch_states(self) -> list[Tensor]:
        """Return the states of PyTorch's global generators; an empty list for a run alone, which may use them."""
        if self.runs == 1:
            return []
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [])]


def draw(mask: Tensor, rate: float, generator: torch.Generator) -> None:
    """Fill a mask of any shape with 0 for what is dropped, at the rounded rate, and 1 for what is kept."""
    dropped = _dropped_levels(rate)
    if not dropped:
        mask.fill_(1)
        return
    words = torch.empty(-(-mask.numel() // 4), dtype=torch.int64, device=mask.device)
    # From -2**63 without an upper bound: all 64 bits are random. They are four signed numbers of 16 bits.
    numbers = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: mask.numel()]
    # The `dropped` smallest levels are dropped. (Not `>=`: a rate near 1 needs a bound that is no 16-bit number.)
    torch.gt(numbers.view(mask.shape), dropped - LEVELS // 2 - 1, out=mask)


def scaled(x: Tensor, rates: Sequence[float]) -> Tensor:
    """Divide masked values, (K, ...), by the share of each run that is kept; may change x.

    The factors are never rounded to the precision of x: a mask of bf16 that held them would be off by up to 0.2%.
    """
    factors = [LEVELS / max(LEVELS - _dropped_levels(rate), 1) for rate in rates]  # if nothing is kept, x is 0
    if len(set(factors)) == 1:
        return x.mul_(factors[0])
    precise = torch.tensor(factors, dtype=torch.promote_types(x.dtype, torch.float32))
    return (x * precise.view(-1, *[1] * (x.dim() - 1)).to(x.device, non_blocking=True)).to(x.dtype)


def _dropped_levels(rate: float) -> int:
    return round(rate * LEVELS)


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
