"""Measure the error rates of the statistics: `python tools/benchmarks/calibration.py` prints tables of docs/statistics.md.

Without any effect (A/A), a test at 5% may reject in at most 5% of the trials, and a 95% interval must cover the truth in 95%.
Trials are drawn with a fixed seed; the functions under test are those behind the report.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from mtlora.base.paths import REPOSITORY
from mtlora.tables.items import randomisation_p
from mtlora.tables.statistics import ALPHA, attainable_p, direction, holm, paired_difference

STUDY = REPOSITORY / "results" / "studies" / "mini_glue_seeds.csv"
STRUCTURES = 4
TASKS = 8

Draw = Callable[[np.random.Generator], list[np.ndarray]]  # -> per structure the differences, (tasks, seeds)


def measure(draw: Draw, trials: int, label: str, margin: float) -> dict[str, float]:
    """Return the rates of verdicts and of covering the true difference 0, over trials with several structures each.

    Args:
        draw: returns the differences of a trial, without any effect.
        trials: the number of trials.
        label: the label of the progress bar.
        margin: the margin of equality; the true difference is set to it when equality is tested.
    """
    generator = np.random.default_rng(20240311)
    rejected = decided = covered = intervals = family = equal = 0
    for _ in track(range(trials), label, console=Console(stderr=True), transient=True):
        results = []
        for differences in draw(generator):
            weights = [1 / len(differences)] * len(differences)
            results.append(paired_difference(list(differences), weights))
        first = results[0]
        rejected += first.p <= ALPHA
        decided += direction(first, first.p) != 0
        if (interval := first.interval()) is not None:
            intervals += 1
            covered += interval[0] <= 0 <= interval[1]
        # the true difference is the margin: TOST may wrongly find equality in 5%
        moved = replace(first, mean=first.mean + margin)
        equal += moved.equivalence_p(margin) <= ALPHA
        adjusted = holm([result.p for result in results])
        family += any(direction(result, p) != 0 for result, p in zip(results, adjusted, strict=True))
    return {
        "sign flips": rejected / trials,
        "decision": decided / trials,
        "equivalence": equal / trials,
        "family of four, Holm": family / trials,
        "t coverage": covered / max(1, intervals),
    }


def normal_task(seeds: int) -> Draw:
    """Return draws of one task with four structures and LoRA: normal scores of equal spread; all differences share LoRA's."""

    def draw(generator: np.random.Generator) -> list[np.ndarray]:
        scores = generator.normal(size=(STRUCTURES + 1, 1, seeds))
        return list(scores[1:] - scores[0])

    return draw


def normal_suite(seeds: int) -> Draw:
    """Return draws of a suite of tasks whose spreads differ by a factor of ten."""
    spreads = np.geomspace(0.2, 2.0, TASKS)[:, None]

    def draw(generator: np.random.Generator) -> list[np.ndarray]:
        scores = spreads * generator.normal(size=(STRUCTURES + 1, TASKS, seeds))
        return list(scores[1:] - scores[0])

    return draw


def runs_against_themselves(scores: np.ndarray, seeds: int) -> Draw:
    """Return draws in which all structures are runs of LoRA, too, (tasks, n), drawn independently for each task: A/A."""

    def draw(generator: np.random.Generator) -> list[np.ndarray]:
        picks = generator.integers(0, scores.shape[1], (STRUCTURES + 1, len(scores), seeds))
        drawn = np.stack([np.take_along_axis(scores, pick, 1) for pick in picks])
        return list(drawn[1:] - drawn[0])

    return draw


def centred_differences(differences: np.ndarray, seeds: int) -> Draw:
    """Return draws from the centred differences of two methods, (tasks, n): zero in the mean, but skewed."""
    centred = differences - differences.mean(1, keepdims=True)

    def draw(generator: np.random.Generator) -> list[np.ndarray]:
        picks = generator.integers(0, centred.shape[1], (STRUCTURES, len(centred), seeds))
        return [np.take_along_axis(centred, pick, 1) for pick in picks]

    return draw


def items_sizes(trials: int, items: int = 100) -> dict[str, float]:
    """Return how often sacrebleu's paired bootstrap and our test find a difference at 5% between two equally good systems."""
    from sacrebleu.significance import PairedTest

    from mtlora.score.text import bleu_metric, reference_streams

    generator = np.random.default_rng(7)
    words = np.array([f"w{n}" for n in range(50)])
    hits = {"paired bootstrap": 0, "randomisation (used)": 0}
    for _ in track(range(trials), "test items", console=Console(stderr=True), transient=True):
        references = [[" ".join(generator.choice(words, 12))] for _ in range(items)]
        systems = [[_noisy(group[0], generator) for group in references] for _ in range(2)]
        metric = bleu_metric(references=reference_streams(references))
        named = [("base", systems[0]), ("other", systems[1])]
        _, scores = PairedTest(named, {"BLEU": metric}, references=None, test_type="bs", n_samples=1000)()
        hits["paired bootstrap"] += scores["BLEU"][1].p_value <= ALPHA
        hits["randomisation (used)"] += randomisation_p(*systems, references) <= ALPHA
    return {name: count / trials for name, count in hits.items()}


def _noisy(text: str, generator: np.random.Generator) -> str:
    """Replace a random share of the words."""
    share = generator.uniform(0, 0.6)
    return " ".join("x" if generator.uniform() < share else word for word in text.split(" "))


def study(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return task -> method -> scores, (seeds,), in the order of the seeds, from the committed study."""
    frame = pd.read_csv(path).sort_values("seed")
    wide = frame.pivot(index=["task", "seed"], columns="method", values="value").dropna()
    return {
        str(task): {str(method): part[method].to_numpy() for method in part}
        for task, part in wide.groupby(level="task")
    }


def main() -> None:
    """Parse the command line, run all settings, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--item-trials", type=int, default=400, help="pairs of systems in the test over items")
    parser.add_argument("--study", type=Path, default=STUDY, help="CSV with task, method, seed, value")
    arguments = parser.parse_args()
    real = study(arguments.study)
    settings: list[tuple[str, int, int, Draw]] = [
        ("normal, one task", n, n, normal_task(n)) for n in (3, 5, 6, 7, 8, 10)
    ]
    settings += [("normal, eight tasks", n, TASKS * n, normal_suite(n)) for n in (2, 3, 5)]
    lora = {task: runs["lora"][None] for task, runs in real.items()}
    minus = {task: (runs["shim"] - runs["lora"])[None] for task, runs in real.items()}
    both = f"{len(real)} tasks"
    for label, make, parts in (
        ("LoRA against LoRA", runs_against_themselves, lora),
        ("SHIM - LoRA, centred", centred_differences, minus),
    ):
        parts = parts | {both: np.concatenate(list(parts.values()))}
        for task, values in parts.items():
            settings += [
                (f"{label}, {task}", n, len(values) * n, make(values, n)) for n in ((3, 5) if task == both else (5, 8))
            ]
    rows = []
    for label, seeds, pairs, draw in settings:
        spread = np.std([np.mean(draw(np.random.default_rng(n))[0]) for n in range(500)])
        rates = measure(draw, arguments.trials, f"{label}, {seeds} seeds", margin=4 * float(spread))
        smallest = attainable_p(pairs)
        possible = np.floor(ALPHA / smallest) * smallest if pairs <= 16 else ALPHA
        rows.append({"differences": label, "seeds": seeds, "possible size": possible} | rates)
    frame = pd.DataFrame(rows)
    for column in frame.columns[2:]:
        frame[column] = [f"{value:.1%}" for value in frame[column]]
    error = (ALPHA * (1 - ALPHA) / arguments.trials) ** 0.5
    print(f"{arguments.trials:,} trials; standard error of a rate of 5%: {error:.2%}\n")
    print(
        frame.to_markdown(index=False, colalign=["left"] + ["right"] * (len(frame.columns) - 1), disable_numparse=True)
    )
    print(f"\n{arguments.item_trials} pairs of equally good systems on 100 test items\n")
    sizes = {name: [f"{rate:.1%}"] for name, rate in items_sizes(arguments.item_trials).items()}
    print(pd.DataFrame(sizes).to_markdown(index=False, disable_numparse=True))


if __name__ == "__main__":
    main()
