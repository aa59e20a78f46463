"""The largest number of runs that can train together: limited by memory, and on a CPU by speed."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator

from mtlora.base.cpu import available_memory
from mtlora.base.hashing import digest
from mtlora.data.encoding import collate
from mtlora.train.cohort.grouping import parts
from mtlora.train.compute import to_device
from mtlora.train.memory import saved_bytes
from mtlora.train.model.dropout import Masks, use_masks
from mtlora.train.objectives import batch_loss
from mtlora.train.run import Run

# On a CPU, batches above a size are slower: the products gain nothing more, and the activations no longer fit the caches.
# Measured with MiniLM on one core. Batches of 16 x 66 tokens: five runs took 57 s in one cohort, 54 s in cohorts of 2 and 3,
# 50 s in cohorts of 1, 2 and 2. Batches of 16 x 53 tokens: 2 runs together took 6% less time than one after the other.
CPU_TOKENS = 2500
MEMORY_SHARE = 0.5  # of the free memory, for the tensors that the backward pass needs


def cohorts_that_fit(runs: Sequence[Run], accelerator: Accelerator) -> list[list[Run]]:
    """Split runs into the largest cohorts that fit, and set `cohort` of each run.

    Runs of one seed, which draw the same dropout masks, are neighbours.
    """
    in_order = sorted(runs, key=lambda run: run.config.seed)
    cohorts = parts(in_order, runs_that_fit(in_order[0], accelerator))
    for cohort in cohorts:
        ids = [run.cell.run_id for run in cohort]
        name = digest(ids)[:12]
        for run in cohort:
            run.cohort = {"id": name, "runs": len(ids), "members": ids}
    return cohorts


def runs_that_fit(run: Run, accelerator: Accelerator) -> int:
    """Return how many runs can train together: limited by memory, and on a CPU by the size that is still faster.

    The memory of a run is extrapolated from the bytes that the forward pass of its longest rows keeps for the backward pass.
    """
    t, data, device = run.config.train, run.data, accelerator.device
    per_row, shared = kept_bytes(run, accelerator)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # return the cached memory of an earlier cohort
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = available_memory()
    by_memory = (MEMORY_SHARE * free - shared) / (per_row * t.batch_size)
    by_speed = CPU_TOKENS / (t.batch_size * data.train.lengths[data.train_rows].mean())
    return max(1, int(by_memory if device.type == "cuda" else min(by_memory, by_speed)))


def kept_bytes(run: Run, accelerator: Accelerator) -> tuple[float, float]:
    """Return the bytes that a forward pass keeps for the backward pass: for each longest row, and once for all rows.

    The second part is mostly the copies of the weights in bf16 under autocast, which the runs of a cohort share.
    """
    data = run.data
    longest = data.train_rows[data.train.lengths[data.train_rows].argsort()[-1:]]
    run.model.train()
    use_masks(run.model, Masks([run.config.seed], accelerator.device))

    def kept(rows: int) -> int:
        padding, width = run.config.data.padding, run.config.data.max_length
        batch = collate(data.train, longest.repeat(rows), data.pad_token_id, padding, width)
        on_device = to_device(batch, accelerator.device)
        with accelerator.autocast():
            return saved_bytes(run.model, lambda: batch_loss(run.config, run.model, on_device))

    few, more = kept(2), kept(4)
    return max((more - few) / 2, 1.0), max(2 * few - more, 0)
