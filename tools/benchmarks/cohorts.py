"""Compare ten runs in lock-step with the same ten runs one after another: the time of a step, and the losses.

python tools/benchmarks/cohorts.py
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import Entry, interleave, publish, ratio

from mtlora.data.encoding import Encoded
from mtlora.plan.cell import Cell, compose_cell
from mtlora.train.cohort.step import CohortStep
from mtlora.train.compute import make_accelerator
from mtlora.train.evaluation import RunData
from mtlora.train.lifecycle import new_record
from mtlora.train.loop import SoloStep
from mtlora.train.model.backbones import load_tokenizer
from mtlora.train.model.build import build_model
from mtlora.train.run import Run
from mtlora.train.tracking import NullTracker

SHAPES = {(4, 12): 1.5, (16, 32): 1.05}  # (rows, tokens) of a run's batch -> goal


def random_data(width: int, rows: int) -> RunData:
    """Return random texts of one length."""
    generator = np.random.default_rng(0)
    encoded = Encoded(
        input_ids=generator.integers(10, 300, rows * width).astype(np.int32),
        token_type_ids=np.zeros(rows * width, np.int8),
        offsets=np.arange(0, rows * width + 1, width),
        labels=generator.integers(0, 2, rows),
    )
    return RunData(encoded, np.arange(rows), {}, 0)


class Sides:
    """The same runs (five methods, several seeds), prepared to take steps alone and together."""

    def __init__(self, data: RunData, seeds: int, shared: list[str], folder: Path) -> None:
        """Build the runs twice; `shared` are the overrides of all."""
        cells = [
            compose_cell([*shared, f"results={folder}", f"transform={transform}", f"seed={seed}"])
            for transform in ("lora", "shim", "icfm", "ctcm", "dtsm")
            for seed in range(seeds)
        ]
        self.accelerator = make_accelerator(cells[0].config)
        tokenizer = load_tokenizer(cells[0].config.model)

        def run_of(cell: Cell) -> Run:
            # Both sides use one backbone, so that its weights are in the caches for runs alone, too.
            model = build_model(cell.config, tokenizer, shared=True).to(self.accelerator.device)
            run = Run(cell, new_record(cell), model, data, tokenizer, NullTracker(), self.accelerator.device)
            run.state.step = run.total // 2  # a learning rate above zero
            return run

        self.runs, self.members = ([run_of(cell) for cell in cells] for _ in range(2))
        self.solo_steps = [SoloStep(run, self.accelerator) for run in self.runs]
        for run, step in zip(self.runs, self.solo_steps, strict=True):
            step.begin([run])
        self.cohort_step = CohortStep(self.accelerator)
        self.cohort_step.begin(self.members)
        self.batches = [run.steps_left() for run in self.runs]
        self.losses: dict[str, list[torch.Tensor]] = {"alone": [], "together": []}
        self.taken = {"alone": 0, "together": 0}

    def alone(self) -> None:
        """Take the next step of every run, one run after another."""
        for run, step, batches in zip(self.runs, self.solo_steps, self.batches, strict=True):
            self.losses["alone"] += step([batches[self.taken["alone"]]], [run.begin_step()])[0]
        self._done("alone")

    def together(self) -> None:
        """Take the next step of every run in lock-step."""
        batches = [steps[self.taken["together"]] for steps in self.batches]
        self.losses["together"] += self.cohort_step(batches, [run.begin_step() for run in self.members])[0]
        self._done("together")

    def _done(self, side: str) -> None:
        self.taken[side] += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def equal(self) -> str:
        """Describe how closely the losses of both sides agree."""
        a, b = (torch.stack(self.losses[side]) for side in ("alone", "together"))
        return f"losses of {self.taken['alone']} steps to {float(((a - b) / a).abs().max()):.0e}"


def measure(rows: int, width: int, goal: float, model: str, repeats: int, folder: Path) -> Entry:
    """Time steps of ten runs, alone and together."""
    shared = [f"model={model}", "task=mrpc", f"train.batch_size={rows}"]
    sides = Sides(random_data(width, rows * (repeats + 3)), 2, shared, folder)
    seconds = interleave({"alone": sides.alone, "together": sides.together}, repeats, warm=2)
    value, spread = ratio(seconds["alone"], seconds["together"])
    return Entry(
        f"cohort of 10, {rows} x {width} tokens", value, "higher", goal, "10 runs alone", spread, sides.equal()
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Cohorts against runs alone.")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        entries = [
            measure(rows, width, goal, options.model, options.repeats, Path(folder))
            for (rows, width), goal in SHAPES.items()
        ]
    publish(entries, f"Cohorts ({options.model})")


if __name__ == "__main__":
    main()
