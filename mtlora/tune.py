"""Choose a learning rate for each method: `python -m mtlora.tune EXPERIMENT [overrides]`; `protocol=tuned` then uses it.

A trial trains with a multiple of the recipe's rate, on nine tenths of the training data, and is scored on the other tenth. In a
data-to-text task it trains on all training data and is scored by the loss on the development set. So neither GLUE's development
set nor a test set is read. All methods make the same number of trials, LoRA too. Every trial counts: one that
diverged has the score of the majority answer, or in a data-to-text task an infinite loss.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
from rich.console import Console

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.base.messages import as_typed
from mtlora.config.metrics import METRICS
from mtlora.plan.cell import Cell, override_key, with_multiplier
from mtlora.plan.download import plan_with_data
from mtlora.plan.experiment import Experiment, load_experiment
from mtlora.plan.grid import TUNING_GRID, Plan, depth, parse_overrides
from mtlora.plan.status import State
from mtlora.plan.trials import TrialScores
from mtlora.plan.tuning import FIRST_SEED, Choice, Trial, Tuning, load_tuning, save_tuning, with_earlier
from mtlora.records.record import RECORD, RunRecord
from mtlora.reproduce import launching, run_missing, start
from mtlora.tables.formats import markdown
from mtlora.tables.tuning import choices_table

EXTENSIONS = 3  # of the grid, by a factor of 2 at an end where a method is best
OWN_KEYS = ("tune.by", "tune.grid")
WITHIN = ("seed", "task", "transform", "recipe")  # what may differ between the cells of a setting


@dataclass
class Group:
    """Tasks that share one factor of a method, in one setting; `cells` are their runs at the factor 1, of all methods."""

    cells: list[Cell]
    grid: list[float]
    setting: str = ""  # the swept values that all cells share, if the experiment has several settings
    extra: dict[str, list[float]] = field(default_factory=dict)  # method -> half steps around its best factor

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks."""
        return list(dict.fromkeys(cell.config.task.name for cell in self.cells))

    @property
    def methods(self) -> list[str]:
        """The names of the methods."""
        return list(dict.fromkeys(cell.config.adapter.method for cell in self.cells))

    def factors(self, method: str) -> list[float]:
        """Return the factors that a method tries, in ascending order."""
        return sorted({*self.grid, *self.extra.get(method, [])})


def tune(experiment: Experiment, plan: Plan, by: str, grid: Sequence[float], sweep: "Sweep") -> Tuning:
    """Run the trials of all groups, parents first, and choose.

    Args:
        experiment: whose columns name the metric of each task.
        plan: the runs at the factor 1, for tuning (`data.split=tune`).
        by: `suite` or `task`.
        grid: the first factors.
        sweep: trains the runs.

    Raises:
        UserError: a run could not be made, or the best factor of a method is still at an end of the grid.
    """
    seeds = list(dict.fromkeys(cell.config.seed for cell in plan.cells))
    tuning = Tuning(experiment.name, plan.profile, by, sorted(grid), seeds)
    for group in groups(plan, by, grid):
        found = run_group(experiment, group, tuning, sweep)
        at_end = [
            f"{method} ({scores.factors[scores.best]:g})"
            for method, scores in found.items()
            if len(scores.factors) > 1 and scores.best in (0, len(scores.factors) - 1)
        ]
        if at_end:
            raise UserError(
                f"on {', '.join(group.tasks)} the best factor is still at an end of the grid for {', '.join(at_end)}: give a "
                "wider tune.grid=..., or another train.learning_rate"
            )
        tuning.choices += [choice(group, method, scores) for method, scores in found.items()]
    return tuning


def groups(plan: Plan, by: str, grid: Sequence[float]) -> Iterable[Group]:
    """Yield the groups of tasks that share a factor, those whose runs others start from first."""

    def key(cell: Cell) -> tuple[int, tuple[str, ...]]:
        own = WITHIN if by == "suite" else WITHIN[:-1]
        setting = tuple(o for o in cell.overrides if override_key(o) not in own)
        return depth(cell), (*setting, cell.config.task.name if by == "task" else "")

    swept = {axis for axis, values in plan.axes.items() if len(values) > 1} - set(WITHIN)
    for _, found in groupby(sorted(plan.cells, key=key), key=key):
        cells = list(found)
        setting = " ".join(o for o in cells[0].overrides if override_key(o) in swept)
        yield Group(cells, sorted(grid), setting)


def run_group(experiment: Experiment, group: Group, tuning: Tuning, sweep: "Sweep") -> dict[str, TrialScores]:
    """Run a group's trials: the grid, its extensions, and half steps, each for all methods; return the scores by method."""
    scores = run_trials(experiment, group, tuning, sweep)
    for _ in range(EXTENSIONS):
        wider = wider_grid(group.grid, [found.factors[found.best] for found in scores.values()])
        if wider == group.grid:
            break
        group.grid = wider
        scores = run_trials(experiment, group, tuning, sweep)
    if any(found.is_close for found in scores.values()):
        for method, found in scores.items():
            center = found.factors[found.best]
            group.extra[method] = [round(center / math.sqrt(2), 5), round(center * math.sqrt(2), 5)]
        scores = run_trials(experiment, group, tuning, sweep)
    tuning.grid = sorted({*tuning.grid, *group.grid})
    return scores


def wider_grid(grid: list[float], best: Sequence[float]) -> list[float]:
    """Return the grid, extended by a factor of 2 at each end where a method is best; a single factor is kept as it is."""
    if len(grid) == 1:
        return grid
    lower, upper = [grid[0] / 2] * (grid[0] in best), [grid[-1] * 2] * (grid[-1] in best)
    return [*lower, *grid, *upper]


def run_trials(experiment: Experiment, group: Group, tuning: Tuning, sweep: "Sweep") -> dict[str, TrialScores]:
    """Train the trials of a group that are missing, enter all of them into `tuning`, and return the scores by method."""
    cells = [
        with_multiplier(cell, factor, parent_factor(cell, tuning))
        for cell in group.cells
        for factor in group.factors(cell.config.adapter.method)
    ]
    sweep.train(cells)
    known = {trial.run_id for trial in tuning.trials}
    scores: dict[tuple[str, float, str, int], float] = {}
    for cell in cells:
        record = RunRecord.load(cell.folder / RECORD)
        trial = trial_of(experiment, cell, record)
        scores[trial.method, trial.multiplier, trial.task, trial.seed] = trial.score
        if trial.run_id not in known:
            tuning.trials.append(replace(trial, setting=group.setting))
            tuning.seconds += record.cost.get("seconds", 0.0)
    return {
        method: TrialScores(
            group.factors(method),
            np.array(
                [[[scores[method, f, t, s] for s in tuning.seeds] for t in group.tasks] for f in group.factors(method)]
            ),
        )
        for method in group.methods
    }


def parent_factor(cell: Cell, tuning: Tuning) -> float | None:
    """Return the factor that was chosen for the run that a cell starts from; None if it starts from none."""
    if cell.parent is None:
        return None
    wanted = cell.parent.basis
    for found in tuning.choices:
        if wanted in found.runs:
            return found.multiplier
    raise UserError(
        f"{cell.config.task.name} starts from {cell.config.init_from}, which is not tuned here: add it to the tasks, "
        "or set init_from=none"
    )


def trial_of(experiment: Experiment, cell: Cell, record: RunRecord) -> Trial:
    """Return a trial's score from its record, on the scale of tables; that of the majority answer if it diverged."""
    config = cell.config
    (split, names), *_ = config.task.metrics.items()
    columns = (column.metric for column in experiment.columns if column.task == config.task.name)
    name = next((metric for metric in columns if metric in names), names[0])
    if record.diverged:
        majority = [b["value"] for b in record.baselines if (b["name"], b["split"]) == (name, split)]
        value = majority[0] if majority else math.inf  # a loss has no majority answer
    else:
        found = record.metric(name, split)
        if found is None:
            raise UserError(
                f"{cell.folder / RECORD} has no {name} on {split}: delete its folder to train the run again"
            )
        value = found
    score = value * METRICS[name].scale * (1 if METRICS[name].higher_is_better else -1)
    factor = config.train.lr_multiplier
    return Trial(config.adapter.method, config.task.name, factor, config.seed, score, record.diverged, record.run_id)


def choice(group: Group, method: str, scores: TrialScores) -> Choice:
    """Return the choice for a method, with its stability."""
    second = scores.second
    mean, error = scores.difference(scores.best, second)
    shares = scores.shares()
    own = [cell for cell in group.cells if cell.config.adapter.method == method]
    return Choice(
        method=method,
        tasks=group.tasks,
        multiplier=scores.factors[scores.best],
        share=float(shares[scores.best]),
        second=scores.factors[second],
        second_share=float(shares[second]),
        difference=mean,
        standard_error=error,
        runs=list(dict.fromkeys(cell.basis for cell in own)),
        setting=group.setting,
        parts={cell.config.task.name: cell.basis_parts for cell in own},
    )


@dataclass(frozen=True)
class Sweep:
    """How the trials are trained."""

    plan: Plan
    launcher: str
    jobs: int | None
    console: Console

    def train(self, cells: list[Cell]) -> None:
        """Train the missing ones of some cells.

        Raises:
            UserError: a run failed by anything but divergence.
        """
        missing = run_missing(replace(self.plan, cells=cells), self.launcher, self.jobs, self.console)
        if any(state is not State.DIVERGED for state in missing.values()):
            raise UserError("some trials are not done (listed above): the same command tries them again")


def main() -> None:
    """Parse the command line, run the trials, write the choice; exit code 1 if there is none for a method."""
    arguments, console = start("mtlora.tune", "Choose a learning rate for each method, on held-out data.")
    experiment = load_experiment(arguments.experiment)
    given = parse_overrides(arguments.overrides)
    by, grid = options(given)
    own = [item for item in arguments.overrides if override_key(item) not in OWN_KEYS]
    if taken := {"protocol", "data.split", "train.lr_multiplier"} & set(given):
        raise UserError(f"{min(taken)} is set by mtlora.tune itself: leave it out")
    plan = plan_with_data(experiment, [*own, "data.split=tune", "train.lr_multiplier=1.0"], console)
    check_seeds(experiment, plan)
    check_earlier(plan, by)
    sweep = Sweep(plan, *launching(arguments, plan), console)
    tuning = tune(experiment, plan, by, grid, sweep)
    tuning.overrides = arguments.overrides
    print(markdown(choices_table(plan, tuning)))
    save_tuning(with_earlier(tuning, plan.tuning_path), plan.tuning_path)
    console.print(
        f"written to {plan.tuning_path}; {as_typed('protocol', 'tuned')} trains with these learning rates",
        soft_wrap=True,
    )


def options(given: dict[str, list[str]]) -> tuple[str, list[float]]:
    """Return `tune.by` and `tune.grid`.

    Raises:
        UserError: a value is not allowed.
    """
    if unknown := sorted(key for key in given if key.startswith("tune.") and key not in OWN_KEYS):
        raise UserError(f"{unknown[0]} is not known: choose one of {', '.join(OWN_KEYS)}")
    by = given.get("tune.by", ["suite"])
    if by not in (["suite"], ["task"]):
        raise UserError(f"tune.by={','.join(by)} is not known: choose one of suite, task")
    try:
        grid = sorted({float(value) for value in given.get("tune.grid", TUNING_GRID)})
    except ValueError:
        grid = []
    if not grid or not all(0 < factor < math.inf for factor in grid):
        raise UserError(f"tune.grid={','.join(given['tune.grid'])} must list factors above 0, such as 0.5,1,2")
    return by[0], grid


def check_seeds(experiment: Experiment, plan: Plan) -> None:
    """Raise a UserError unless there are at least two seeds, and none is a seed of the experiment's final runs."""
    seeds = list(dict.fromkeys(cell.config.seed for cell in plan.cells))
    if len(seeds) < 2:
        example = as_typed("seed", "100,101")
        raise UserError(f"tuning needs at least two seeds, to say how sure a choice is: give {example}")
    final = experiment.axes_of(plan.profile).get("seed", [])
    if shared := sorted(set(map(str, seeds)) & set(map(str, final))):
        raise UserError(
            f"{as_typed('seed', shared[0])} is a seed of the final runs: tune with others, such as {FIRST_SEED}"
        )


def check_earlier(plan: Plan, by: str) -> None:
    """Raise a UserError if the tuning file has a choice for several tasks of which only some would be tuned again."""
    if not plan.tuning_path.exists():
        return
    new = {(method, task, g.setting) for g in groups(plan, by, [1.0]) for method in g.methods for task in g.tasks}
    for old in load_tuning(plan.tuning_path).choices:
        again = [task for task in old.tasks if (old.method, task, old.setting) in new]
        if again and again != old.tasks:
            raise UserError(
                f"{plan.tuning_path} has one learning rate of {old.method} for {', '.join(old.tasks)}: "
                f"tune them together ({as_typed('task', ','.join(old.tasks))}), or delete the file"
            )


if __name__ == "__main__":
    cli.run(main)
