"""Compare batches of similar length with batches padded to 512, in time and in padding.

Real texts are used with --data-root, otherwise the built-in ones.

python tools/benchmarks/batches.py --data-root GLUE_FOLDER
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Entry, interleave, publish, ratio

from mtlora.base.errors import UserError
from mtlora.data.batches import epoch_batches
from mtlora.data.encoding import collate
from mtlora.plan.cell import compose_cell
from mtlora.train.compute import make_accelerator
from mtlora.train.data import load_data
from mtlora.train.evaluation import RunData
from mtlora.train.model.build import build_model
from mtlora.train.objectives import batch_loss

TASKS = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")
GOALS = {"mnli": 10.0, "cola": 35.0}  # task -> how many times as fast an epoch should be as one padded to 512
ROWS, BATCH = 96, 16


def data_of(task: str, root: Path | None, results: str) -> tuple[object, RunData, object]:
    """Return a task's configuration, data and tokenizer; the data are GLUE's files below `root`, or else the built-in texts."""
    source = [f"data.root={root}", "data.source=local", "data.subset=true"] if root else []
    cell = compose_cell(["model=minilm", f"task={task}", f"results={results}", *source])
    tokenizer, data = load_data(cell)
    return cell.config, data, tokenizer


def epoch(
    config: object, model: torch.nn.Module, data: RunData, batches: list[np.ndarray], padding: str
) -> Callable[[], None]:
    """Return a function that computes the forward and backward pass of each batch of an epoch."""

    def run() -> None:
        for rows in batches:
            batch = collate(data.train, rows, data.pad_token_id, padding, 512)
            loss = batch_loss(config, model, batch)  # type: ignore[arg-type]
            loss.backward()
            model.zero_grad()

    return run


def measure(task: str, root: Path | None, results: str) -> list[Entry]:
    """Time an epoch over rows that are spread evenly over a task's lengths, and compare the losses of both sides."""
    config, data, tokenizer = data_of(task, root, results)
    make_accelerator(config)  # type: ignore[arg-type]  # threads and matrix library
    model = build_model(config, tokenizer).train()  # type: ignore[arg-type]
    by_length = np.argsort(data.train.lengths, kind="stable")
    rows = by_length[np.linspace(0, len(by_length) - 1, ROWS).astype(int)]
    grouped = [rows[b] for b in epoch_batches(data.train.lengths[rows], BATCH, "length", task, 0, 0)]
    shuffled = [rows[b] for b in epoch_batches(data.train.lengths[rows], BATCH, "random", task, 0, 0)]
    sides = {
        "padded": epoch(config, model, data, shuffled, "max_length"),
        "grouped": epoch(config, model, data, grouped, "longest"),
    }
    seconds = interleave(sides, repeats=2, warm=0)
    value, spread = ratio(seconds["padded"], seconds["grouped"])
    model.eval()
    with torch.no_grad():
        losses = [
            float(batch_loss(config, model, collate(data.train, grouped[0], data.pad_token_id, padding, 512)))  # type: ignore[arg-type]
            for padding in ("longest", "max_length")
        ]
    equal = f"loss of a batch to {abs(losses[0] - losses[1]) / losses[1]:.0e}"
    return [Entry(f"epoch, {task} lengths", value, "higher", GOALS[task], "padded to 512", spread, equal)]


def padding_waste(lengths: np.ndarray, batches: list[np.ndarray]) -> float:
    """Return the ratio (at least 1) of padded to real tokens when every batch is padded to its longest example."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return padded / int(lengths.sum())


def waste(root: Path | None, results: str) -> list[Entry]:
    """Return the ratio of padded to real tokens of an epoch for every task, at both batch sizes of the recipes."""
    entries = []
    for task in TASKS:
        try:
            _, data, _ = data_of(task, root, results)
        except UserError as error:
            print(f"{task}: {error}")
            continue
        lengths = data.train.lengths[data.train_rows]
        values = [padding_waste(lengths, epoch_batches(lengths, size, "length", task, 0, 0)) for size in (16, 32)]
        spread, real = (
            f"batches of 16, 32: {values[0]:.3f}, {values[1]:.3f}",
            f"{int(lengths.sum())} real tokens counted",
        )
        entries.append(Entry(f"padding, {task}", max(values), "lower", 1.12, "real tokens", spread, real))
    return entries


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Batches of similar length against padding to 512.")
    parser.add_argument(
        "--data-root", type=Path, help="GLUE's files (default: built-in texts, whose lengths are not GLUE's)"
    )
    options = parser.parse_args()
    if options.data_root is not None and not options.data_root.is_dir():
        parser.error(f"--data-root {options.data_root} is not a folder: name the one that holds GLUE's files")
    with tempfile.TemporaryDirectory() as results:
        entries = [entry for task in GOALS for entry in measure(task, options.data_root, results)]
        publish(
            entries + waste(options.data_root, results),
            f"Batches ({'GLUE' if options.data_root else 'built-in texts'})",
        )


if __name__ == "__main__":
    main()
