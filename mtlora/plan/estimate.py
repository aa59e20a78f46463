"""An estimate of the time that cells need, from finished runs of the same task and model, or else from a measured rate."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

from mtlora.base.errors import UserError
from mtlora.base.product_rate import measured_in_child
from mtlora.config.schema import DataConfig, RunConfig, TaskConfig
from mtlora.data.sources import load_split
from mtlora.plan.cell import Cell
from mtlora.records.record import RECORD, RunRecord

# The share of the measured rate of large matrix products that a run reaches: small products on a CPU reach about half, and a
# single run with batches of 16 to 32 leaves a large GPU mostly idle.
UTILISATION = {"cpu": 0.5, "cuda": 0.07}
# For small models on the built-in texts, special tokens included; a small vocabulary splits names in facts into several tokens.
TOKENS_PER_WORD = {"classification": 1.3, "regression": 1.3, "generation": 2.2}
# Seconds of a run outside training and decoding, measured on a CPU: imports, weights and data, where one process trains several
# runs; and of the metrics of decoded texts, once and for each context (METEOR 1.5 and the start of Java take most of them).
START_SECONDS, SCORE_SECONDS, CONTEXT_SECONDS = 5.0, 10.0, 0.02
A100_RATE = UTILISATION["cuda"] * 312e12  # operations per second: the same share of the data sheet's rate in bf16


@dataclass(frozen=True)
class Estimate:
    """The cost of cells: operations, training tokens, the sum of the runs' seconds, and the basis of the estimate in words.

    `overhead`: the seconds of start-up and of scoring texts, which `seconds` does not include.

    `divisible`: n runs at a time take 1/n of `seconds`, because the finished runs had only a share of the machine, too.
    """

    flops: float
    tokens: float
    seconds: float
    basis: str
    divisible: bool = True
    overhead: float = 0.0

    @property
    def a100(self) -> float:
        """A guess of the seconds on one A100."""
        return self.flops / A100_RATE + self.overhead


def estimate(cells: Sequence[Cell], among: Sequence[Cell] = ()) -> Estimate:
    """Estimate the run time of cells.

    The time per operation is the median over the finished runs of the same task and model, or over all finished runs. Only runs
    on the device of the latest one count. If there is none, the estimate is a guess from the rate of matrix products.

    Args:
        cells: the cells that are left.
        among: all cells of their plan, of which some may be finished.
    """
    if not cells:
        return Estimate(0.0, 0.0, 0.0, "nothing left")
    work = {cell.sha: workload(cell) for cell in cells}
    flops, tokens = (sum(work[cell.sha][part] for cell in cells) for part in (0, 1))
    overhead = sum(map(overhead_of, cells))
    paces, device = _paces([*among, *cells])
    if not paces:
        compute = cells[0].config.compute
        rate, device = measured_in_child(compute.device, compute.cpu_gemm)
        basis = f"a guess: {UTILISATION[device]:.0%} of this machine's matrix-product rate"
        return Estimate(flops, tokens, flops / (UTILISATION[device] * rate), basis, False, overhead)
    every = [pace for alike in paces.values() for pace in alike]
    seconds = sum(median(paces.get(_kind(cell), every)) * work[cell.sha][0] for cell in cells)
    runs = f"from {len(every)} finished run{'s' * (len(every) > 1)}" + (f" on {device}" if device else "")
    return Estimate(flops, tokens, seconds, runs + _error_of(list(paces.values())), overhead=overhead)


def overhead_of(cell: Cell) -> float:
    """Return about the seconds of a run outside training and decoding."""
    scoring = SCORE_SECONDS + CONTEXT_SECONDS * number_of_contexts(cell.config) if cell.config.decodes else 0.0
    return START_SECONDS + scoring


def _kind(cell: Cell) -> tuple[str, str]:
    return cell.config.task.name, cell.config.model.name


def _paces(cells: Sequence[Cell]) -> tuple[dict[tuple[str, str], list[float]], str]:
    """Return by task and model the seconds per operation of finished runs on the device of the latest one; and the device."""
    found: list[tuple[str, str, tuple[str, str], float]] = []
    for cell in {cell.sha: cell for cell in cells}.values():
        with suppress(UserError, KeyError, ValueError, TypeError):
            record = RunRecord.load(cell.folder / RECORD)
            if record.status == "success":
                seconds = record.cost["seconds"] + record.cost.get("decode_seconds", 0.0)
                made = record.provenance.get("ended", ""), record.provenance.get("device", "")
                found.append((*made, _kind(cell), seconds / workload(cell)[0]))
    device = max(found)[1] if found else ""
    paces: dict[tuple[str, str], list[float]] = {}
    for _, its_device, kind, pace in found:
        if its_device == device:
            paces.setdefault(kind, []).append(pace)
    return paces, device


def _error_of(paces: Sequence[list[float]]) -> str:
    """Describe the median error when each finished run is predicted from the others of its kind; empty for fewer than three."""
    alike = [(run, found[:i] + found[i + 1 :]) for found in paces for i, run in enumerate(found) if len(found) > 1]
    if len(alike) < 3:
        return ""
    error = median(abs(median(others) / run - 1) for run, others in alike)
    return f"; the median error, when each is predicted from the others, is {error:.0%}"


def workload(cell: Cell) -> tuple[float, float]:
    """Return approximately a run's floating-point operations and the number of tokens that it trains on.

    The operations are two per backbone parameter and token in the forward pass, and two in the backward pass (to the
    activations only, because the weights are frozen; four in full fine-tuning). Attention scores, embeddings and padding are
    left out.
    """
    config = cell.config
    task, train, decode = config.task, config.train, config.decode
    generation = task.kind == "generation"
    watched = ("validation",) if generation else tuple(task.metrics)
    if config.data.source == "builtin":
        rows, words, _ = _builtin_size(task, config.data.split, "train")
        tokens = TOKENS_PER_WORD[task.kind] * words / rows
        evaluated = sum(_builtin_size(task, config.data.split, split)[0] for split in watched)
    else:
        rows, tokens = task.sizes["train"], task.mean_tokens
        evaluated = sum(task.sizes.get(split, rows // 10) for split in watched)  # a tenth of the rows: tuning's split
    rows = min(rows, train.limit_examples or rows)
    evaluated = min(evaluated, (train.limit_validation if generation else None) or evaluated)
    forwards = tokens * train.epochs * ((3 if config.adapter.full else 2) * rows + evaluated)
    if config.decodes:  # on average a text has about half of the allowed tokens
        forwards += number_of_contexts(config) * decode.beams * decode.max_new_tokens / 2
    return 2.0 * config.model.parameters * forwards, tokens * train.epochs * rows


def number_of_contexts(config: RunConfig) -> int:
    """Return the number of contexts that a run decodes."""
    is_builtin = config.data.source == "builtin"
    contexts = _builtin_size(config.task, "full", "test")[2] if is_builtin else config.task.sizes["test"]
    return min(contexts, config.decode.limit_contexts or contexts)


_counted: dict[tuple[str, str, str], tuple[int, int, int]] = {}


def _builtin_size(task: TaskConfig, part: str, split: str) -> tuple[int, int, int]:
    """Return the numbers of rows, words and distinct first texts (contexts) of a split of the built-in data.

    `part` is the `data.split` of the run.
    """
    if (task.name, part, split) not in _counted:
        columns = load_split(task, DataConfig(source="builtin", split=part), split)
        texts = [text for name in task.text_columns for text in columns[name]]
        contexts = set(columns[task.text_columns[0]])
        words = sum(len(text.split()) for text in texts)
        _counted[task.name, part, split] = len(texts) // len(task.text_columns), words, len(contexts)
    return _counted[task.name, part, split]
