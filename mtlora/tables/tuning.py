"""The learning rates that were tried and chosen, from a tuning file: their table, and the data of their figures."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from mtlora.base.errors import UserError
from mtlora.base.progress import duration
from mtlora.plan.grid import Plan
from mtlora.plan.tuning import Choice, Trial, Tuning, load_tuning
from mtlora.tables.captions import method_label
from mtlora.tables.layout import MISSING, TableCell, TextTable, number


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that share one factor of a method, in one setting, with all of their trials."""

    setting: str
    tasks: tuple[str, ...]
    choices: dict[str, Choice]  # by method
    trials: pd.DataFrame  # a row a run, with the fields of `Trial`

    def by_seed(self, method: str, task: str | None = None) -> pd.DataFrame:
        """Return a row for each factor and seed of a method: the score of a task, or the mean over all of them.

        Columns: `multiplier`, `seed`, `score`, and `diverged`, whether any of these runs did.
        """
        grouped = self._of(method, task).groupby(["multiplier", "seed"])
        return grouped.agg(score=("score", "mean"), diverged=("diverged", "any")).reset_index()

    def by_factor(self, method: str, task: str | None = None) -> "pd.Series[float]":
        """Return a method's mean score over tasks (or of one) and seeds, by factor in ascending order."""
        return self._of(method, task).groupby("multiplier")["score"].mean()

    def _of(self, method: str, task: str | None) -> pd.DataFrame:
        own = self.trials[self.trials["method"] == method]
        return own if task is None else own[own["task"] == task]


def read_tuning(plan: Plan) -> Tuning | None:
    """Return a plan's tuning file; None if there is none, if it cannot be read, or if it holds no choice."""
    try:
        tuning = load_tuning(plan.tuning_path)
    except UserError:
        return None
    return tuning if tuning.choices and tuning.trials and tuning.seeds else None


def task_groups(tuning: Tuning) -> list[TaskGroup]:
    """Return the groups of tasks that share a choice, in the order of the file."""
    found: dict[tuple[str, tuple[str, ...]], dict[str, Choice]] = {}
    for choice in tuning.choices:
        found.setdefault((choice.setting, tuple(choice.tasks)), {})[choice.method] = choice
    return [
        TaskGroup(setting, tasks, choices, pd.DataFrame([asdict(trial) for trial in _within(tuning, setting, tasks)]))
        for (setting, tasks), choices in found.items()
        if _within(tuning, setting, tasks)
    ]


def _within(tuning: Tuning, setting: str, tasks: Sequence[str]) -> list[Trial]:
    return [trial for trial in tuning.trials if trial.setting == setting and trial.task in tasks]


def expected_best(scores: Sequence[float]) -> list[float]:
    """Return the expected best of k scores, for k = 1 to n, of which n were observed.

    This is the mean of the maximum over all subsets of k of the n scores. With v_(1) <= ... <= v_(n), v_(i) is the maximum of
    C(i - 1, k - 1) of the C(n, k) subsets, so

        E_k = sum over i = k..n of C(i - 1, k - 1) / C(n, k) * v_(i),

    which is unbiased for the best of k independent draws (Tang et al. 2020, arXiv 2004.13705). The estimate from the empirical
    distribution, which draws with replacement, is too low for k > 1.

    Args:
        scores: (n,), higher is better; a score of -inf gives -inf for each k at which it can be the maximum.
    """
    ordered, n = sorted(scores), len(scores)
    return [
        math.fsum(math.comb(i - 1, k - 1) / math.comb(n, k) * ordered[i - 1] for i in range(k, n + 1))
        for k in range(1, n + 1)
    ]


def score_name(plan: Plan) -> str:
    """Name the score of a trial."""
    if plan.cells[0].config.task.kind == "generation":
        return "minus the validation loss, nats per token"
    return "score on held-out training rows"


def choices_table(plan: Plan, tuning: Tuning) -> TextTable:
    """Return the mean score of each factor by group and method, the chosen one in bold, with its stability and the trials."""
    factors = sorted({trial.multiplier for trial in tuning.trials})
    settings = any(choice.setting for choice in tuning.choices)
    diverged = any(trial.diverged for trial in tuning.trials)
    rows, notes = [], []
    for choice in tuning.choices:
        own = [t for t in _within(tuning, choice.setting, choice.tasks) if t.method == choice.method]
        names = [method_label(choice.method), ", ".join(choice.tasks), *([choice.setting] if settings else [])]
        named = " ".join([names[0], "on", *names[1:]])
        cells = [
            _mean_cell([t for t in own if t.multiplier == factor], factor == choice.multiplier) for factor in factors
        ]
        share = TableCell(f"{choice.share:.0%}", choice.share)
        bad = tuple(trial.run_id for trial in own if trial.diverged)
        counts = [TableCell(f"{len(own)}", len(own), tuple(trial.run_id for trial in own))]
        if diverged:
            counts.append(TableCell(f"{len(bad)} of {len(own)}", len(bad), bad))
        rows.append([*map(TableCell, names), *cells, share, *counts])
        if not choice.is_sure:
            notes.append(
                f"{named}: only {choice.share:.1%} of the resamples choose x {choice.multiplier:g}, "
                f"{choice.second_share:.1%} choose x {choice.second:g}."
            )
    if diverged:
        notes.append(
            "A trial that diverged counts with the score of the majority answer."
            if all(math.isfinite(trial.score) for trial in tuning.trials)
            else "A factor of which a trial diverged has no mean loss, and is not chosen."
        )
    labels = ["Method", "Tasks", *(["Setting"] if settings else [])]
    header = [*labels, *(f"x {factor:g}" for factor in factors), "Stability", "Trials", *(["Diverged"] * diverged)]
    text = (
        f"mean {score_name(plan)} by factor of the recipe's learning rate, the chosen one in bold; "
        f"seeds {min(tuning.seeds)} to {max(tuning.seeds)}; {len(tuning.trials)} trials (runs), {duration(tuning.seconds)} "
        "of training. Stability: the share of resamples of the seeds that make the same choice."
    )
    title = f"{plan.experiment.title}: learning rates"
    return TextTable(f"{plan.name}-rates", title, text, header, rows, len(labels), notes)


def _mean_cell(trials: Sequence[Trial], is_chosen: bool) -> TableCell:
    if not trials:
        return MISSING
    mean = math.fsum(trial.score for trial in trials) / len(trials)
    if not math.isfinite(mean):
        return TableCell("diverged")
    return TableCell(number(mean, 2), mean, tuple(trial.run_id for trial in trials), is_chosen)
