"""The time that the cells of a plan need: as finished runs of the same task and model took, else by a measured rate."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

from mtlora.base.errors import UserError
from mtlora.base.product_rate import measured_in_child
from mtlora.config.schema import DataConfig, TaskConfig
from mtlora.data.sources import load_split
from mtlora.plan.cell import Cell
from mtlora.records.record import RECORD, RunRecord

# Share of the measured rate of matrix products that a run reaches: small matrices on a CPU reach about half, single runs at
# batch 16 to 32 leave a big GPU mostly idle.
UTILISATION = {"cpu": 0.5, "cuda": 0.07}
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


def estimate(cells: Sequence[Cell], among: Sequence[Cell] = ()) -> Estimate:
    """Estimate the run time of cells.

    A cell takes the median time of the finished runs of its task and model, or of all finished runs; runs of other lengths count
    in proportion to their operations. Where no run is finished, the estimate is a guess from the rate of matrix products.

    Args:
        cells: the cells to be run.
        among: all cells of their plan.
    """
    if not cells:
        return Estimate(0.0, 0.0, 0.0, "nothing left")
    work = {cell.sha: workload(cell) for cell in cells}
    flops, tokens = (sum(work[cell.sha][part] for cell in cells) for part in (0, 1))
    paces = _paces([*among, *cells])
    if not paces:
        compute = cells[0].config.compute
        rate, device = measured_in_child(compute.device, compute.cpu_gemm)
        basis = f"a guess: {UTILISATION[device]:.0%} of this machine's matrix-product rate"
        return Estimate(flops, tokens, flops / (UTILISATION[device] * rate), basis, divisible=False)
    every = [pace for alike in paces.values() for pace in alike]
    seconds = sum(median(paces.get(_kind(cell), every)) * work[cell.sha][0] for cell in cells)
    runs = f"from {len(every)} finished run{'s' * (len(every) > 1)}"
    return Estimate(flops, tokens, seconds, runs + _error_of(list(paces.values())))


def _kind(cell: Cell) -> tuple[str, str]:
    return cell.config.task.name, cell.config.model.name


def _paces(cells: Sequence[Cell]) -> dict[tuple[str, str], list[float]]:
    """Return the seconds per operation of the finished runs, by task and model."""
    paces: dict[tuple[str, str], list[float]] = {}
    for cell in {cell.sha: cell for cell in cells}.values():
        with suppress(UserError, KeyError, ValueError, TypeError):
            record = RunRecord.load(cell.folder / RECORD)
            if record.status == "success":
                seconds = record.cost["seconds"] + record.cost.get("decode_seconds", 0.0)
                paces.setdefault(_kind(cell), []).append(seconds / workload(cell)[0])
    return paces


def _error_of(paces: Sequence[list[float]]) -> str:
    """State how far off the estimate is: each of at least three finished runs, predicted from those like it."""
    alike = [(run, found[:i] + found[i + 1 :]) for found in paces for i, run in enumerate(found) if len(found) > 1]
    if len(alike) < 3:
        return ""
    error = median(abs(median(others) / run - 1) for run, others in alike)
    return f"; a finished one, predicted from the others, is off by {error:.0%} in the median"


def workload(cell: Cell) -> tuple[float, float]:
    """Return a run's floating-point operations and the tokens that it trains on, roughly.

    Two per backbone parameter and token forward, two more backward to the activations (the weights are frozen); attention
    scores, embeddings and padding are left out.
    """
    task, train, decode = cell.config.task, cell.config.train, cell.config.decode
    generation = task.kind == "generation"
    watched = ("validation",) if generation else tuple(task.metrics)
    if cell.config.data.source == "builtin":
        rows, words, _ = _builtin_size(task, "train")
        tokens = TOKENS_PER_WORD[task.kind] * words / rows
        evaluated = sum(_builtin_size(task, split)[0] for split in watched)
    else:
        rows, tokens = task.sizes["train"], task.mean_tokens
        evaluated = sum(task.sizes[split] for split in watched)
    rows = min(rows, train.limit_examples or rows)
    evaluated = min(evaluated, (train.limit_validation if generation else None) or evaluated)
    forwards = tokens * train.epochs * (2 * rows + evaluated)
    if generation:  # texts end after about half of the tokens that they may have
        contexts = _builtin_size(task, "test")[2] if cell.config.data.source == "builtin" else task.sizes["test"]
        forwards += min(contexts, decode.limit_contexts or contexts) * decode.beams * decode.max_new_tokens / 2
    return 2.0 * cell.config.model.parameters * forwards, tokens * train.epochs * rows


_counted: dict[tuple[str, str], tuple[int, int, int]] = {}


def _builtin_size(task: TaskConfig, split: str) -> tuple[int, int, int]:
    """Return the rows of a split of the built-in data, their words, and how many distinct first texts (contexts) they have."""
    if (task.name, split) not in _counted:
        columns = load_split(task, DataConfig(source="builtin"), split)
        texts = [text for name in task.text_columns for text in columns[name]]
        contexts = set(columns[task.text_columns[0]])
        words = sum(len(text.split()) for text in texts)
        _counted[task.name, split] = len(texts) // len(task.text_columns), words, len(contexts)
    return _counted[task.name, split]
