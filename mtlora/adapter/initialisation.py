"""The starting values of A, B, C and D (see `MTLoraConfig.init_weights`)."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from mtlora.adapter.transforms import STRUCTURES

Generator = torch.Generator | None
Fill = Callable[[torch.Tensor, Generator], object]


def fills(init_weights: bool | str, *, structure: str, r: int, is_embedding: bool) -> dict[str, Fill]:
    """Return, for each of the letters A, B, C and D, the function that fills a tensor with its starting values.

    Args:
        init_weights: A value of `MTLoraConfig.init_weights`.
        structure: A key of `STRUCTURES`; decides which multiple of I makes T = I.
        r: Rank, which sets the standard deviation 1/r of A under ``identity``.
        is_embedding: Whether the base layer is an embedding. All starts but ``zero_t`` and ``False`` swap the roles of A and
            B, as PEFT's LoRA does: A = 0 and B is standard normal. The update is 0 either way, except under ``False``.
    """
    if init_weights is False:
        return dict.fromkeys("ABCD", _kaiming)
    if init_weights == "zero_t":
        small = partial(_normal, std=0.02)
        return {"A": small, "B": small, "C": _zeros, "D": _zeros}

    is_identity = init_weights in ("identity_t", "identity")
    t: Fill = partial(_scaled_identity, scale=STRUCTURES[structure].identity) if is_identity else _kaiming
    if is_embedding:
        return {"A": _zeros, "B": partial(_normal, std=1.0), "C": t, "D": t}
    a: Fill = partial(_normal, std=1 / r) if init_weights == "identity" else _kaiming
    return {"A": a, "B": _zeros, "C": t, "D": t}


def _kaiming(values: torch.Tensor, generator: Generator) -> None:
    # matrix by matrix, because torch takes r * r as the fan-in of a stack (k, r, r)
    for matrix in values.view(-1, *values.shape[-2:]):
        nn.init.kaiming_uniform_(matrix, a=math.sqrt(5), generator=generator)


def _normal(values: torch.Tensor, generator: Generator, std: float) -> None:
    nn.init.normal_(values, std=std, generator=generator)


def _zeros(values: torch.Tensor, generator: Generator) -> None:
    values.zero_()


def _scaled_identity(values: torch.Tensor, generator: Generator, scale: float) -> None:
    values.zero_().diagonal(dim1=-2, dim2=-1).fill_(scale)
