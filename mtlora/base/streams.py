"""Named random streams: every source of randomness draws from its own generator, derived from (seed, task, purpose, name).

On one task and seed all methods and ranks share the start of the head and the batches, and methods of one rank share the start
of A. Two tasks share nothing, because statistics treat their differences as independent. A change in one stream (a new matrix,
another order) never shifts the numbers of another.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, task: str, purpose: str, name: str = "") -> int:
    """Return a 63-bit seed for one stream, the same on every machine and in every process."""
    digest = hashlib.sha256(f"{seed}\0{task}\0{purpose}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_stream(seed: int, task: str, purpose: str, name: str = "") -> "torch.Generator":
    """Return a CPU generator for one stream; draw on the CPU and copy, so that every device gets the same numbers."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, task, purpose, name))


def numpy_stream(seed: int, task: str, purpose: str, name: str = "") -> np.random.Generator:
    """Return a NumPy generator for one stream."""
    return np.random.default_rng(stream_seed(seed, task, purpose, name))
