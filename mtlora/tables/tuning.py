"""The learning rates that were tried and chosen, from a tuning file: their table, and the data of their figures."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from mtlora.base.errors import UserError
from mtlora.base.progress import duration
from mtlora.plan.grid import Plan
from mtlora.plan.tuning import Choice, Tuning, load_tuning
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
        grouped = self.of(method, task).groupby(["multiplier", "seed"])
        return grouped.agg(score=("score", "mean"), diverged=("diverged", "any")).reset_index()

    def by_factor(self, method: str, task: str | None = None) -> "pd.Series[float]":
        """Return a method's mean score over tasks (or of one) and seeds, by factor in ascending order."""
        return self.of(method, task).groupby("multiplier")["score"].mean()

    def of(self, method: str, task: str | None = None) -> pd.DataFrame:
        """Return the trials of a method, or only those on a task."""
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
    choices: dict[tuple[str, tuple[str, ...]], dict[str, Choice]] = {}
    for choice in tuning.choices:
        choices.setdefault((choice.setting, tuple(choice.tasks)), {})[choice.method] = choice
    trials = pd.DataFrame([asdict(trial) for trial in tuning.trials])
    return [
        TaskGroup(setting, tasks, own, found)
        for (setting, tasks), own in choices.items()
        if not (found := trials[(trials["setting"] == setting) & trials["task"].isin(tasks)]).empty
    ]


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
    groups = task_groups(tuning)
    factors = sorted({trial.multiplier for trial in tuning.trials})
    settings = any(group.setting for group in groups)
    diverged = any(trial.diverged for trial in tuning.trials)
    digits = 3 if plan.cells[0].config.task.kind == "generation" else 2  # a loss, or points
    rows, notes = [], []
    for group, method, choice in ((g, method, choice) for g in groups for method, choice in g.choices.items()):
        names = [method_label(method), ", ".join(group.tasks), *([group.setting] if settings else [])]
        own = group.of(method)
        bad = tuple(own[own["diverged"]]["run_id"])
        cells = [
            _mean_cell(own[own["multiplier"] == factor], factor == choice.multiplier, digits) for factor in factors
        ]
        share, trials = (
            TableCell(f"{choice.share:.0%}", choice.share),
            TableCell(f"{len(own)}", len(own), tuple(own["run_id"])),
        )
        failed = [TableCell(f"{len(bad)} of {len(own)}", len(bad), bad)] * diverged
        rows.append([*map(TableCell, names), *cells, share, trials, *failed])
        if not choice.is_sure:
            notes.append(
                f"{' '.join([names[0], 'on', *names[1:]])}: only {choice.share:.1%} of the resamples choose "
                f"x {choice.multiplier:g}, {choice.second_share:.1%} choose x {choice.second:g}."
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


def _mean_cell(trials: pd.DataFrame, is_chosen: bool, digits: int) -> TableCell:
    if trials.empty:
        return MISSING
    mean = float(trials["score"].mean())
    if not math.isfinite(mean):
        return TableCell("diverged")
    return TableCell(number(mean, digits), mean, tuple(trials["run_id"]), is_chosen)
