"""Ten runs in lock-step against the same ten one after another: time of a step of each, and equality.

python benchmarks/cohorts.py
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import Entry, interleave, publish, ratio

from mtlora.cells import compose_cell
from mtlora.cohort.dropout import RunDropout
from mtlora.cohort.network import Network
from mtlora.cohort.training import step_together
from mtlora.compute import make_accelerator
from mtlora.evaluation import RunData
from mtlora.loop import Run, train_step
from mtlora.models import build_model
from mtlora.objectives import Objective
from mtlora.run import load_data
from mtlora.tasks.encoding import Encoded
from mtlora.tracking import NullTracker

SHAPES = {(4, 12): 1.5, (16, 32): 1.05}  # rows x tokens of a run's batch -> goal


def random_data(width: int, rows: int) -> RunData:
    """Return random texts of one length."""
    generator = np.random.default_rng(0)
    encoded = Encoded(
        input_ids=generator.integers(1000, 20000, rows * width).astype(np.int32),
        token_type_ids=np.zeros(rows * width, np.int8),
        offsets=np.arange(0, rows * width + 1, width),
        labels=generator.integers(0, 2, rows),
    )
    return RunData(encoded, np.arange(rows), {}, 0)


def measure(rows: int, width: int, goal: float, model: str, repeats: int, folder: Path) -> Entry:
    """Time steps of ten runs, five methods by two seeds, both ways."""
    data = random_data(width, rows * (repeats + 3))
    shared = [f"model={model}", "task=mrpc", f"train.batch_size={rows}", f"results={folder}"]
    cells = [
        compose_cell([*shared, f"transform={transform}", f"seed={seed}"])
        for transform in ("lora", "shim", "icfm", "ctcm", "dtsm")
        for seed in (0, 1)
    ]
    accelerator = make_accelerator(cells[0].config)
    tokenizer, _ = load_data(cells[0])

    def run_of(number: int, together: bool) -> Run:
        config = cells[number].config
        model = build_model(config, tokenizer, together)
        return Run(config, model.to(accelerator.device), data, folder, cells[number].sha, NullTracker())

    alone = [run_of(i, False) for i in range(len(cells))]
    together = [run_of(i, True) for i in range(len(cells))]
    objectives = [Objective(run.config, run.model) for run in alone]
    dropout = RunDropout([(run.config.seed, 0.0) for run in together], accelerator.device)
    network = Network([run.model for run in together], dropout)
    network.model.train()
    steps = [run.groups() for run in alone]
    taken = {"alone": 0, "together": 0}
    losses: dict[str, list[torch.Tensor]] = {"alone": [], "together": []}

    def solo() -> None:
        for run, objective, groups in zip(alone, objectives, steps, strict=True):
            run.model.train()
            torch.manual_seed(run.begin_step())
            losses["alone"].append(train_step(run, accelerator, objective, groups[taken["alone"]])[0])
        taken["alone"] += 1
        synchronize()

    def cohort() -> None:
        dropout.seed([run.begin_step() for run in together])
        losses["together"] += step_together(
            together, [groups[taken["together"]] for groups in steps], network, accelerator
        )[0]
        taken["together"] += 1
        synchronize()

    for run in (*alone, *together):
        run.progress.step = run.total // 2  # a learning rate above zero
    seconds = interleave({"alone": solo, "together": cohort}, repeats, warm=2)
    value, spread = ratio(seconds["alone"], seconds["together"])
    a, b = (torch.stack([loss.cpu() for loss in losses[side]]) for side in ("alone", "together"))
    equal = f"losses of {taken['alone']} steps to {float(((a - b) / a).abs().max()):.0e}"
    if accelerator.device.type == "cuda":
        equal = "dropout draws other masks on a GPU: see tests/test_cohort.py"
    return Entry(f"cohort of 10, {rows} x {width} tokens", value, "higher", goal, "10 runs alone", spread, equal)


def synchronize() -> None:
    """Wait for a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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
