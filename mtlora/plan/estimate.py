"""The time that the cells of a plan need."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from statistics import median
from typing import Any

from mtlora.base.errors import UserError
from mtlora.config.schema import RunConfig
from mtlora.data.builtin.triples import TEST_ENTRIES
from mtlora.plan.cell import Cell, metric_values
from mtlora.records.record import RECORD, RunRecord

# Share of the measured matrix-product rate that a run reaches, where no finished run of the model tells better: small matrices
# on a CPU reach about half, single runs at batch 16 to 32 leave a big GPU mostly idle.
CPU_UTILISATION, GPU_UTILISATION = 0.5, 0.07


# Of the small models on the built-in texts, special tokens included; names in facts take several tokens of a small vocabulary.
TOKENS_PER_WORD = {"classification": 1.3, "regression": 1.3, "generation": 2.2}


@dataclass(frozen=True)
class Estimate:
    """The cost of cells: arithmetic, training tokens, seconds of all runs added up, and where the rate comes from.

    `divisible`: runs side by side share the time, as the rate is that of runs which had a share of the machine.
    """

    flops: float
    tokens: float
    seconds: float
    basis: str
    divisible: bool = True


def workload(cell: Cell) -> tuple[float, float]:
    """Return a run's floating-point operations and the tokens that it trains on, roughly.

    Two per backbone parameter and token forward, two more backward to the activations (the weights are frozen); attention
    scores, embeddings and padding are left out.
    """
    task, train, decode = cell.config.task, cell.config.train, cell.config.decode
    generation = task.kind == "generation"
    watched = ("validation",) if generation else tuple(task.metrics)
    if cell.config.data.source == "builtin":
        rows, evaluated, tokens = _builtin_size(task.name, task.kind, watched)
    else:
        rows, tokens = task.sizes["train"], task.mean_tokens
        evaluated = sum(task.sizes[split] for split in watched)
    rows = min(rows, train.limit_examples or rows)
    evaluated = min(evaluated, (train.limit_validation if generation else None) or evaluated)
    forwards = tokens * train.epochs * (2 * rows + evaluated)
    if generation:  # texts end after about half of the tokens that they may have
        contexts = TEST_ENTRIES if cell.config.data.source == "builtin" else task.sizes["test"]
        forwards += min(contexts, decode.limit_contexts or contexts) * decode.beams * decode.max_new_tokens / 2
    return 2.0 * cell.config.model.parameters * forwards, tokens * train.epochs * rows


@lru_cache(maxsize=64)
def _builtin_size(task: str, kind: str, splits: tuple[str, ...]) -> tuple[int, int, float]:
    """Return training rows, watched rows, and the mean tokens of a training row, of a built-in task."""
    from mtlora.data.sources import builtin_texts

    texts = builtin_texts(task, kind, "train")
    words = sum(len(text.split()) for text in texts)
    return (
        len(texts),
        sum(len(builtin_texts(task, kind, split)) for split in splits),
        TOKENS_PER_WORD[kind] * words / len(texts),
    )


def estimate(cells: Sequence[Cell], among: Sequence[Cell] = ()) -> Estimate:
    """Estimate the run time of cells from the finished ones of their experiment, of any seed, else from a measured rate.

    A cell takes as long per operation as the finished runs of its task and structure did, or else of its task, its model, or all.

    Args:
        cells: the cells to be run.
        among: all cells of the experiment.
    """
    if not cells:
        return Estimate(0.0, 0.0, 0.0, "nothing left")
    work = {cell.sha: workload(cell) for cell in cells}
    flops, tokens = (sum(work[cell.sha][part] for cell in cells) for part in (0, 1))
    if timed := _finished_runs([*among, *cells]):
        seconds = sum(_predict(cell, work[cell.sha][0], timed) for cell in cells)
        return Estimate(
            flops, tokens, seconds, f"from {len(timed)} finished run{'s' if len(timed) > 1 else ''}{_error_of(timed)}"
        )
    rate, used = matmul_rate(cells[0].config)
    basis = f"a guess: {used:.0%} of this machine's matrix-product rate"
    return Estimate(flops, tokens, flops / (used * rate), basis, divisible=False)


@dataclass(frozen=True)
class _Timed:
    """A finished cell, its operations and its seconds."""

    cell: Cell
    flops: float
    seconds: float


def _predict(cell: Cell, flops: float, timed: Sequence[_Timed]) -> float:
    """Return a cell's seconds: its operations at the pace of the finished runs that are most like it."""
    for like in (
        lambda c: (c.config.task.name, c.config.model.name, c.config.adapter.structure),
        lambda c: (c.config.task.name, c.config.model.name),
        lambda c: c.config.model.name,
        lambda c: None,
    ):
        if alike := [run for run in timed if like(run.cell) == like(cell)]:
            return median(run.seconds / run.flops for run in alike) * flops
    raise AssertionError("the last group holds every run")


def _error_of(timed: Sequence[_Timed]) -> str:
    """Say how far off the model of the cost is: each finished run predicted from the others."""
    if len(timed) < 3:
        return ""
    errors = []
    for i, run in enumerate(timed):
        others = [*timed[:i], *timed[i + 1 :]]
        errors.append(abs(_predict(run.cell, run.flops, others) / run.seconds - 1))
    return f"; a finished one, predicted from the others, is off by {median(errors):.0%} in the median"


def _finished_runs(cells: Sequence[Cell]) -> list[_Timed]:
    """Return the finished runs of the cells' configurations, whatever their seed."""
    timed = []
    for cell in {cell.folder.parent: cell for cell in cells}.values():
        own = _without_seed(asdict(cell.config))
        for path in sorted(cell.folder.parent.glob(f"*/{RECORD}")):
            with suppress(UserError, KeyError, ValueError, TypeError):
                record = RunRecord.load(path)
                if record.status == "success" and _without_seed(record.config) == own:
                    timed.append(_Timed(cell, workload(cell)[0], _wall_seconds(record)))
    return timed


def _without_seed(config: dict[str, Any]) -> dict[str, Any]:
    return metric_values(config) | {"seed": 0}


def _wall_seconds(record: RunRecord) -> float:
    """Return what a run took, loading and scoring included where it was alone; at least the training of all attempts."""
    started, ended = (datetime.fromisoformat(record.provenance[key]) for key in ("started", "ended"))
    trained: float = record.cost["seconds"] + record.cost.get("decode_seconds", 0.0)
    if "cohort" in record.provenance:
        return trained  # its share of the time of all
    return max((ended - started).total_seconds(), trained)


def matmul_rate(config: RunConfig) -> tuple[float, float]:
    """Measure the rate of matrix products (operations per second) that a run finds here; tell the share of it that it reaches.

    On a CPU that of fp32, through the library that the run would choose; this process uses it from now on.
    """
    import time

    import torch

    from mtlora.train.onednn import use_fastest_products

    use_fastest_products(config)
    cuda = torch.cuda.is_available()
    n, kind, device = (8192, torch.bfloat16, "cuda") if cuda else (1024, torch.float32, "cpu")
    a = torch.ones(n, n, dtype=kind, device=device)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        float((a @ a)[0, 0])
        seconds.append(time.perf_counter() - started)
    return 2.0 * n**3 / min(seconds), GPU_UTILISATION if cuda else CPU_UTILISATION


def duration(seconds: float) -> str:
    """Write a time span for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
