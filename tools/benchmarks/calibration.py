"""Measure the error rates of the verdicts: `python tools/benchmarks/calibration.py` prints the tables of docs/statistics.md.

Trials are simulated comparisons of four structures with LoRA, drawn with a fixed seed; the functions under test are those behind
the report. Without an effect, at most 5% of the trials may call any of the four better or worse (family error).
"""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from mtlora.base.paths import REPOSITORY
from mtlora.records.record import RunRecord
from mtlora.score.sums import SCORES, bleu_counts
from mtlora.tables.items import Counted, exchange_p
from mtlora.tables.statistics import ALPHA, ClaimVerdict, Difference, Verdict, judge, judge_claim, paired_difference

STUDY = REPOSITORY / "results" / "studies" / "2026-minilm-glue" / "records.jsonl"
STRUCTURES = 4
TASKS = 8
CLAIM = 1.0
MARGIN = CLAIM / 2

Draw = Callable[[np.random.Generator], np.ndarray]  # -> scores of LoRA and the structures: (5, tasks, seeds)


@dataclass(frozen=True)
class Setting:
    """A way to draw trials; `effect` is the true difference of every structure."""

    label: str
    seeds: int
    draw: Draw
    effect: float = 0.0


def differences(setting: Setting, generator: np.random.Generator) -> list[Difference]:
    """Return the estimate for each structure in one trial."""
    scores = setting.draw(generator)
    return [
        paired_difference([dict(enumerate(map(float, task))) for task in scores[k] - scores[0]]) for k in range(1, 5)
    ]


def measure(setting: Setting, trials: int) -> dict[str, float]:
    """Return the shares of trials with an error or a success, over `trials` trials with four structures each."""
    generator = np.random.default_rng(20240311)
    spread = np.std([differences(setting, np.random.default_rng(n))[0].mean for n in range(300)])
    margin = 6 * float(spread)
    wrong = right = covered = equal = 0
    for _ in track(range(trials), setting.label, console=Console(stderr=True), transient=True):
        found = differences(setting, generator)
        verdicts = [judge(d, STRUCTURES, MARGIN)[0] for d in found]
        if setting.effect == 0:
            wrong += any(verdict in (Verdict.BETTER, Verdict.WORSE) for verdict in verdicts)
        right += verdicts[0] is Verdict.BETTER
        low, high = found[0].interval(1 - ALPHA / STRUCTURES) or (np.nan, np.nan)
        covered += low <= setting.effect <= high
        # the true difference of all four is the margin: in 5% at most any may be found within it
        moved = [replace(d, mean=d.mean - setting.effect + margin) for d in found]
        equal += any(d.is_within(margin, ALPHA / STRUCTURES) for d in moved)
    rates = {"called better": right / trials, "coverage (98.75%)": covered / trials, "wrongly equal": equal / trials}
    return ({"family error": wrong / trials} if setting.effect == 0 else {"family error": float("nan")}) | rates


def claims(setting: Setting, trials: int) -> dict[str, float]:
    """Return the shares of the verdicts on a claim of 1 point."""
    generator = np.random.default_rng(7)
    found = Counter(judge_claim(differences(setting, generator)[0], CLAIM, STRUCTURES) for _ in range(trials))
    words = [v for v in ClaimVerdict if v not in (ClaimVerdict.TOO_FEW, ClaimVerdict.FAILS, ClaimVerdict.NOT_TESTED)]
    return {str(word): found[word] / trials for word in words}


def normal(
    tasks: int, seeds: int, spread: float = 0.5, effect: float = 0.0, uneven: float = 0.0, shared: float = 0.0
) -> Draw:
    """Return draws of normal scores.

    Args:
        tasks: the number of tasks.
        seeds: the number of seeds.
        spread: standard deviation over seeds of a run's score, in points.
        effect: the mean over tasks of the structures' true difference.
        uneven: standard deviation over tasks of their true differences, whose mean is `effect` exactly.
        shared: correlation between tasks of the scores at one seed.
    """

    def draw(generator: np.random.Generator) -> np.ndarray:
        own = generator.normal(size=(STRUCTURES + 1, tasks, seeds))
        common = generator.normal(size=(STRUCTURES + 1, 1, seeds))
        scores = spread * (np.sqrt(1 - shared) * own + np.sqrt(shared) * common)
        by_task = uneven * generator.normal(size=(STRUCTURES, tasks, 1))
        scores[1:] += effect + by_task - by_task.mean(1, keepdims=True)
        return scores

    return draw


def unequal_spreads(seeds: int) -> Draw:
    """Return draws of a suite of tasks whose spreads differ by a factor of ten."""
    spreads = np.geomspace(0.2, 2.0, TASKS)[:, None]
    return lambda generator: spreads * generator.normal(size=(STRUCTURES + 1, TASKS, seeds))


def collapsing(seeds: int, share: float) -> Draw:
    """Return draws in which a share of all runs, of LoRA too, counts as the majority answer, 20 points lower."""

    def draw(generator: np.random.Generator) -> np.ndarray:
        scores = normal(TASKS, seeds)(generator)
        return scores - 20 * (generator.random(scores.shape) < share)

    return draw


def skewed(tasks: int, seeds: int) -> Draw:
    """Return draws in which the differences to LoRA are lognormal (skewness 6), less their mean: the t interval's weak point."""

    def draw(generator: np.random.Generator) -> np.ndarray:
        drawn = generator.lognormal(size=(STRUCTURES, tasks, seeds)) - np.exp(0.5)
        return np.concatenate([np.zeros((1, tasks, seeds)), drawn])

    return draw


def like_runs(values: np.ndarray, tasks: int, seeds: int, differences: bool) -> Draw:
    """Return draws that are distributed as real values, around zero.

    A few values of one task do not show the shape of their distribution, and five draws from them repeat values, which hides
    their spread. So the shape is that of all values, standardised by task; each of the first `tasks` tasks has its own spread.

    Args:
        values: scores of LoRA, or differences of a method to LoRA, (all tasks, n).
        tasks: the number of tasks in a trial.
        seeds: the number of seeds in a trial.
        differences: the values are differences, so LoRA's scores are 0; else all five methods are LoRA: A/A.
    """
    spread = values.std(1, ddof=1, keepdims=True)
    shape = ((values - values.mean(1, keepdims=True)) / spread).ravel()

    def draw(generator: np.random.Generator) -> np.ndarray:
        drawn = spread[:tasks] * generator.choice(shape, (STRUCTURES + 1, tasks, seeds))
        return np.concatenate([np.zeros_like(drawn[:1]), drawn[1:]]) if differences else drawn

    return draw


def items_sizes(trials: int, items: int = 100) -> dict[str, float]:
    """Return how often sacrebleu's paired bootstrap and our test find a difference at 5% between two equally good systems."""
    from sacrebleu.significance import PairedTest

    from mtlora.score.text import bleu_metric, reference_streams

    generator = np.random.default_rng(7)
    words = np.array([f"w{n}" for n in range(50)])
    hits = {"paired bootstrap": 0, "exchange of items (used)": 0}
    for _ in track(range(trials), "test items", console=Console(stderr=True), transient=True):
        references = [[" ".join(generator.choice(words, 12))] for _ in range(items)]
        systems = [[_noisy(group[0], generator) for group in references] for _ in range(2)]
        metric = bleu_metric(references=reference_streams(references))
        named: list[tuple[str, Sequence[str]]] = [("base", systems[0]), ("other", systems[1])]
        _, scores = PairedTest(named, {"BLEU": metric}, references=None, test_type="bs", n_samples=1000)()
        hits["paired bootstrap"] += scores["BLEU"][1].p_value <= ALPHA  # type: ignore[operator, union-attr]
        theirs, ours = (bleu_counts(system, references)[None] for system in systems)
        hits["exchange of items (used)"] += exchange_p([Counted(ours, theirs, SCORES["bleu"])]) <= ALPHA
    return {name: count / trials for name, count in hits.items()}


def _noisy(text: str, generator: np.random.Generator) -> str:
    """Replace a random share of the words."""
    share = generator.uniform(0, 0.6)
    return " ".join("x" if generator.uniform() < share else word for word in text.split(" "))


def study(path: Path) -> dict[str, np.ndarray]:
    """Return method -> scores x 100, (tasks, seeds), LoRA first, of the runs of query and value under the protocol `matched`.

    Only seeds that every method has on every task count.
    """
    records = [RunRecord.parse(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [
        {"method": one.config["adapter"]["label"], "task": one.task, "seed": one.seed}
        | {"value": one.metric(one.config["task"]["metrics"]["validation"][0], "validation")}
        for one in records
        if (one.protocol, one.config["targets"]) == ("matched", "qv")
    ]
    frame = pd.DataFrame(rows, columns=["method", "task", "seed", "value"])
    wide = frame.pivot(index="seed", columns=["method", "task"], values="value").dropna()
    if wide.empty or "LoRA" not in wide:
        sys.exit(f"error: {path}: no seed has LoRA and every other method on every task (protocol matched, targets qv)")
    methods = dict.fromkeys(["LoRA", *wide.columns.get_level_values("method")])
    return {method: 100 * wide[method].sort_index(axis=1).to_numpy().T for method in methods}


def settings(real: dict[str, np.ndarray]) -> list[Setting]:
    """Return the rows of the first table."""
    found = [Setting("one task", n, normal(1, n)) for n in (5, 8)]
    found += [Setting("eight tasks", n, normal(TASKS, n)) for n in (5, 8)]
    found += [Setting("eight tasks, spreads differ tenfold", n, unequal_spreads(n)) for n in (5, 8)]
    found += [Setting("eight tasks, effects of deviation 1 and mean 0", 5, normal(TASKS, 5, uneven=1.0))]
    found += [
        Setting(f"eight tasks, correlation {rho:g} between tasks", 5, normal(TASKS, 5, shared=rho))
        for rho in (0.1, 0.3)
    ]
    found += [Setting(f"eight tasks, {share:.0%} of runs collapse", 5, collapsing(5, share)) for share in (0.01, 0.1)]
    found += [Setting("lognormal differences, one task", n, skewed(1, n)) for n in (5, 8)]
    found += [Setting("lognormal differences, eight tasks", 5, skewed(TASKS, 5))]
    lora = real["LoRA"]
    for method, scores in real.items():
        paired = method != "LoRA"
        values = scores - lora if paired else lora
        label = f"{'differences' if paired else 'scores'} like {method.removeprefix('MTLoRA ')}'s"
        for tasks in (1, len(lora)):
            text = f"{label}, {'one task' if tasks == 1 else f'{tasks} tasks'}"
            found += [Setting(text, n, like_runs(values, tasks, n, paired)) for n in (5, 8)]
    for uneven in (0.0, 1.0):
        text = "eight tasks, effect 0.5" + (", of deviation 1 over tasks" if uneven else "")
        found.append(Setting(text, 5, normal(TASKS, 5, effect=0.5, uneven=uneven), 0.5))
    return found


def table(rows: list[dict[str, object]], texts: int) -> str:
    """Return rows as a Markdown table; all but the first `texts` columns are shares."""
    frame = pd.DataFrame(rows)
    for column in frame.columns[texts:]:
        frame[column] = ["–" if value != value else f"{value:.1%}" for value in frame[column]]
    align = ["left"] + ["right"] * (len(frame.columns) - 1)
    return str(frame.to_markdown(index=False, colalign=align, disable_numparse=True))


def main() -> None:
    """Parse the command line, run all settings, print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--item-trials", type=int, default=400, help="pairs of systems in the test over items")
    parser.add_argument("--study", type=Path, default=STUDY, help="records of a study with LoRA (matched)")
    arguments = parser.parse_args()
    error = (ALPHA * (1 - ALPHA) / arguments.trials) ** 0.5
    print(f"{arguments.trials:,} trials; standard error of a rate of 5%: {error:.2%}\n")
    rows = [
        {"scores": one.label, "seeds": one.seeds} | measure(one, arguments.trials)
        for one in settings(study(arguments.study))
    ]
    print(table(rows, 2))
    print(
        f"\nA claim of 1 point, {arguments.trials // 5:,} trials; eight tasks, five seeds, by the true effect and the deviation "
        "of a run\n"
    )
    rows = []
    for effect, spread in itertools.product((-0.5, 0.0, CLAIM / 2, CLAIM), (0.5, 1.5)):
        setting = Setting("claims", 5, normal(TASKS, 5, spread, effect))
        shares = claims(setting, arguments.trials // 5)
        rows.append({"effect": f"{effect:g}", "deviation": f"{spread:g}", **shares})
    print(table(rows, 2))
    print(f"\n{arguments.item_trials} pairs of equally good systems on 100 test items\n")
    print(table([dict(items_sizes(arguments.item_trials))], 0))


if __name__ == "__main__":
    main()
