"""The optimizer steps of an epoch: the rows in each batch of a step, and the weight of each batch."""

from collections.abc import Iterator

import numpy as np
import torch

from mtlora.base.processes import own_rows, world_size
from mtlora.config.schema import RunConfig
from mtlora.data.batches import epoch_batches
from mtlora.data.encoding import collate
from mtlora.train.evaluation import RunData


def steps_of_epoch(config: RunConfig, data: RunData, epoch: int) -> list[list[np.ndarray]]:
    """Return the epoch's optimizer steps: each a list of `accumulation` batches of row numbers."""
    lengths = data.train.lengths[data.train_rows]
    t = config.train
    batches = epoch_batches(lengths, t.batch_size, config.data.order, config.task.name, config.seed, epoch)
    rows = [data.train_rows[batch] for batch in batches]
    return [rows[i : i + t.accumulation] for i in range(0, len(rows), t.accumulation)]


def collated(config: RunConfig, data: RunData, batches: list[np.ndarray]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield this process's part of each batch of a step, as tensors."""
    for rows in batches:
        own = own_rows(rows)
        used = own if len(own) else rows[:1]  # each process must take part in each batch; its share may be 0
        yield collate(data.train, used, data.pad_token_id, config.data.padding, config.data.max_length)


def loss_shares(config: RunConfig, data: RunData, batches: list[np.ndarray]) -> list[float]:
    """Return, for each batch of a step, the share of the step's examples (generation: target tokens) in this process's rows.

    Processes average their gradients, so each share is multiplied by the number of processes.
    """

    def weight(rows: np.ndarray) -> int:
        if config.task.kind == "generation":  # labels are the lengths of the prompts in tokens
            return int((data.train.lengths[rows] - data.train.labels[rows]).sum())
        return len(rows)

    whole = max(1, sum(map(weight, batches)))
    return [weight(own_rows(rows)) * world_size() / whole for rows in batches]
