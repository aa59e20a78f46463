"""What an experiment still has to do: `python -m mtlora.plan EXPERIMENT [overrides]` lists its cells and the time they need."""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mtlora import cli
from mtlora.cells import Cell
from mtlora.experiment import Plan, load_experiment, make_plan
from mtlora.files import is_held
from mtlora.record import RunRecord, find_records, record_status
from mtlora.tasks.builtin.triples import TEST_ENTRIES

# Share of the measured matrix-product rate that a run reaches, where no finished run of the model tells better: small matrices
# on a CPU reach about half, single runs at batch 16 to 32 leave a big GPU mostly idle.
CPU_UTILISATION, GPU_UTILISATION = 0.5, 0.07
# Of the small models on the built-in texts, special tokens included; names in facts take several tokens of a small vocabulary.
TOKENS_PER_WORD = {"classification": 1.3, "regression": 1.3, "generation": 2.2}


@dataclass(frozen=True)
class Estimate:
    """The cost of cells: arithmetic, seconds one after another, and where the rate comes from."""

    flops: float
    seconds: float
    basis: str


def statuses(plan: Plan) -> dict[str, str]:
    """Return every cell's state by config_sha, parents included: done, failed, running, interrupted or missing."""
    return {cell.sha: state_of(cell) for stage in plan.stages for cell in stage}


def state_of(cell: Cell) -> str:
    """Return a cell's state: done, failed, running, interrupted or missing."""
    status = record_status(cell.folder)
    if status == "running" and not is_held(cell.lock):
        return "interrupted"  # its process was killed
    return {"success": "done", None: "missing"}.get(status, str(status))


def workload(cell: Cell) -> float:
    """Return a run's floating-point operations, roughly.

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
    return 2.0 * cell.config.model.parameters * forwards


@lru_cache(maxsize=64)
def _builtin_size(task: str, kind: str, splits: tuple[str, ...]) -> tuple[int, int, float]:
    """Return training rows, watched rows, and the mean tokens of a training row, of a built-in task."""
    from mtlora.tasks.sources import builtin_texts

    texts = builtin_texts(task, kind, "train")
    words = sum(len(text.split()) for text in texts)
    return (
        len(texts),
        sum(len(builtin_texts(task, kind, split)) for split in splits),
        TOKENS_PER_WORD[kind] * words / len(texts),
    )


def estimate(cells: list[Cell]) -> Estimate:
    """Estimate the time of cells run one after another, from finished runs of the same model, else from a measured rate."""
    flops = sum(workload(cell) for cell in cells)
    if not cells:
        return Estimate(0.0, 0.0, "nothing left")
    rates = [rate for rate in map(_measured_rate, {cell.config.model.name: cell for cell in cells}.values()) if rate]
    if rates:
        return Estimate(flops, flops / min(rates), "from finished runs of this model")
    rate, used = matmul_rate()
    return Estimate(flops, flops / (used * rate), f"a guess: {used:.0%} of this machine's matrix-product rate")


def _measured_rate(cell: Cell) -> float | None:
    """Return operations per second of finished runs of the same model, with the cells' own recorded configuration."""
    place = Path(cell.config.results) / "runs" / cell.config.task.suite
    done = operations = 0.0
    for path in find_records(place):
        if path.parts[-4] != cell.config.model.name or record_status(path.parent) != "success":
            continue
        record = RunRecord.load(path)
        done += record.cost["train_seconds"]
        operations += 4.0 * cell.config.model.parameters * record.cost["tokens"]
    return operations / done if done else None


def matmul_rate() -> tuple[float, float]:
    """Measure this machine's matrix-product rate (operations per second) and tell the share of it that a run reaches."""
    import time

    import torch

    cuda = torch.cuda.is_available()
    n, kind, device = (8192, torch.bfloat16, "cuda") if cuda else (1024, torch.float32, "cpu")
    a = torch.ones(n, n, dtype=kind, device=device)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        float((a @ a)[0, 0])
        seconds.append(time.perf_counter() - started)
    return 2.0 * n**3 / min(seconds), GPU_UTILISATION if cuda else CPU_UTILISATION


def show(plan: Plan, console: Console) -> None:
    """Print the cells by task and state, and the estimated cost of the rest."""
    state = statuses(plan)
    cells = [cell for stage in plan.stages for cell in stage]
    kinds = ("done", "missing", "running", "interrupted", "failed")
    table = Table(title=f"{plan.name}: {len(cells)} cells", title_justify="left")
    for heading in ("task", *kinds):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for task in dict.fromkeys(cell.config.task.name for cell in cells):
        counts = Counter(state[cell.sha] for cell in cells if cell.config.task.name == task)
        table.add_row(task, *(str(counts[kind] or "") for kind in kinds))
    console.print(table)
    rest = [cell for cell in cells if state[cell.sha] != "done"]
    cost = estimate(rest)
    console.print(
        f"{len(rest)} cells to run: {cost.flops:.2g} FLOP, about {duration(cost.seconds)} one after another ({cost.basis})"
    )


def duration(seconds: float) -> str:
    """Write a time span for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def main() -> None:
    """Parse the command line and print the plan."""
    parser = cli.experiment_parser("mtlora.plan", "Show what an experiment still has to run.")
    arguments = parser.parse_intermixed_args()
    show(make_plan(load_experiment(arguments.experiment), arguments.overrides), Console())


if __name__ == "__main__":
    cli.run(main)
