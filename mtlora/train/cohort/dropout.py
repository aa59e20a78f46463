"""Dropout in a batch of several runs: each run draws what it would draw alone, from a stream of its own.

On the CPU the masks are the same numbers as in a solo run. Runs of one seed draw the same masks, as they do one after another,
so these are drawn once. (On a GPU a solo run's fused kernels draw other numbers from the same seed.)
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mtlora.train.cohort.grouping import CohortUnsupported
from mtlora.train.model.attention import attention

# Dimensions of a tensor, by their number, that can be as wide as the batch: (rows, width, features), (rows, heads, width, width).
WIDE = {2: (), 3: (1,), 4: (2, 3)}


class RunDropout(TorchFunctionMode):
    """While active, replaces `F.dropout`, and the dropout inside of scaled dot product attention."""

    def __init__(self, streams: Sequence[Hashable], device: torch.device) -> None:
        """Take what identifies each run's stream; runs with equal ones draw the same masks."""
        super().__init__()
        self.order = list(dict.fromkeys(streams))
        self.stream_of = torch.tensor([self.order.index(stream) for stream in streams], device=device)
        self.first = [streams.index(stream) for stream in self.order]  # a run of each stream
        self.generators = [torch.Generator(device) for _ in self.order]
        self.rows = 0  # of the batch of all runs
        self.widths = [0] * len(streams)  # of each run's batch alone

    def seed(self, seeds: Sequence[int]) -> None:
        """Begin a step: the seed of each run's dropout."""
        for generator, run in zip(self.generators, self.first, strict=True):
            generator.manual_seed(seeds[run])

    def __call__(self, x: Tensor, rates: Sequence[float]) -> Tensor:
        """Return dropout of x, (K n, ...), with a rate for each run.

        Raises:
            CohortUnsupported: x has no rows of each run, as position embeddings that all share.
        """
        if x.shape[0] != self.rows:
            raise CohortUnsupported("the model drops from what belongs to no run")
        runs = len(self.widths)
        rows = x.shape[0] // runs
        widest = max(self.widths)
        # Not where a layer goes on with the first token alone.
        wide = [d for d in WIDE.get(x.dim(), ()) if x.shape[d] == widest]
        noise = []
        for generator, run in zip(self.generators, self.first, strict=True):
            shape = [rows, *x.shape[1:]]
            for dimension in wide:
                shape[dimension] = self.widths[run]
            mask = x.new_empty(shape)
            if rates[run]:
                mask.bernoulli_(1.0 - rates[run], generator=generator).div_(1.0 - rates[run])
            else:
                mask.fill_(1.0)
            pads = [(0, widest - shape[d] if d in wide else 0) for d in reversed(range(x.dim()))]
            noise.append(F.pad(mask, [side for pad in pads for side in pad]) if self.widths[run] < widest else mask)
        # Masks of one stream are broadcast to its runs, not copied.
        factors = noise[0] if len(noise) == 1 else torch.stack(noise)[self.stream_of]
        return (x.reshape(runs, rows, *x.shape[1:]) * factors).view(x.shape)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the two functions; let all others pass."""
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention and kwargs.get("dropout_p"):
            return attention(self._dropout, *args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return self(x, [p] * len(self.widths)) if training and p else x
