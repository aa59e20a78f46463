"""Measure the utilisation of a GPU by one run and by cohorts of 5 and 25, and derive the hours of the full GLUE grid.

    python tools/benchmarks/gpu.py

The model has RoBERTa-base's layers with random weights, in bf16. Batch sizes and epochs are those of the recipes, lengths the
means of the tasks. Without a GPU, --small runs two small layers on the CPU, which only shows that the script works.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from cohorts import Sides, random_data
from common import interleave, machine, multiplied

from mtlora.base.product_rate import measure
from mtlora.plan.cell import compose_cell

TASKS = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")
METHODS_AND_SEEDS = 25


def seconds_per_step(width: int, rows: int, runs: int, overrides: list[str], repeats: int) -> tuple[float, float]:
    """Return the median seconds per step of a run: with `runs` runs one after another, and with them in a cohort."""
    with tempfile.TemporaryDirectory() as name:
        shared = [*overrides, "task=mrpc", f"train.batch_size={rows}"]
        sides = Sides(random_data(width, rows * (repeats + 4)), runs // 5, shared, Path(name))
        seconds = interleave({"alone": sides.alone, "together": sides.together}, repeats, warm=3)
    return median(seconds["alone"]) / runs, median(seconds["together"]) / runs


def encoder(small: bool) -> dict[str, object]:
    """Return the architecture: RoBERTa-base's, or two small layers."""
    if small:
        small_sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
        return {"model_type": "roberta", "num_hidden_layers": 2, **small_sizes}
    return {"model_type": "roberta", "num_hidden_layers": 12}


def overrides_of(architecture: dict[str, object]) -> list[str]:
    """Return the overrides of all runs: random weights, in bf16, and a tokenizer that comes with this package."""
    overrides = ["model=roberta_base", "model.source=random", "profile=paper", "train.precision=bf16"]
    overrides += ["model.package=mtlora", "model.folder=train/model/pretrained/tiny"]
    return [*overrides, *(f"+model.architecture.{key}={value}" for key, value in architecture.items())]


def main() -> None:
    """Measure the batch shape of every task and print the table."""
    parser = argparse.ArgumentParser(description="Utilisation of a GPU, and hours of the GLUE grid.")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--small", action="store_true", help="two small layers, on any device")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.small:
        sys.exit("error: this PyTorch sees no CUDA device: run it on a machine with one, or try it with --small")
    architecture = encoder(options.small)
    overrides = overrides_of(architecture)
    peak, _ = measure("auto", "auto")
    rows = []
    for task in options.tasks:
        recipe = compose_cell(["model=roberta_base", f"task={task}", "profile=paper"]).config
        t, width = recipe.train, round(recipe.task.mean_tokens)
        layers = architecture["num_hidden_layers"]
        parameters = 12 * layers * architecture.get("hidden_size", 768) ** 2 * multiplied(layers)  # type: ignore[operator,arg-type]
        work = 4.0 * parameters * t.batch_size * width  # forward, and backward to the activations
        steps = t.epochs * recipe.task.sizes["train"] / t.batch_size * METHODS_AND_SEEDS
        row = {"task": task, "batch": f"{t.batch_size} x {width}"}
        for runs in (5, 25):
            alone, together = seconds_per_step(width, t.batch_size, runs, overrides, options.repeats)
            row |= {
                "alone, utilisation": work / alone / peak,
                f"cohort of {runs}, utilisation": work / together / peak,
                "alone, hours": alone * steps / 3600,
                f"cohort of {runs}, hours": together * steps / 3600,
            }
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    total = table.select_dtypes("number").filter(like="hours").sum()
    print(f"{machine()}\nmeasured rate of a large product: {peak / 1e12:.1f} TFLOP/s\n")
    print(table.to_markdown(index=False, floatfmt=".3g"))
    print(f"\nTraining steps of the whole grid ({METHODS_AND_SEEDS} runs a task; evaluation and loading not counted):")
    print(", ".join(f"{name} {value:.3g}" for name, value in total.items()))


if __name__ == "__main__":
    main()
