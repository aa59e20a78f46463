"""The learning rate of each method under `protocol=tuned`, read from the file that `mtlora.tune` writes.

`RESULTS/tuned/NAME.yaml` holds the choice for each method and task, and every trial that led to it. A choice fits a run only if
the run's settings, training data, weights and training code are those of the trials: `Cell.basis` is their hash.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mtlora.base.errors import UserError
from mtlora.base.files import write_text
from mtlora.base.messages import as_typed, command, same_command
from mtlora.config.schema import RunConfig

FIRST_SEED = 100  # seeds from here on are for tuning only
PARTS = ("settings", "data", "weights", "code")  # that a choice depends on
SURE = 0.8  # where fewer of the resamples make a choice, the second best factor is confirmed, too


@dataclass
class Trial:
    """One run of a learning rate."""

    method: str
    task: str
    multiplier: float  # of the recipe's learning rate
    seed: int
    score: float  # the task's first metric on the held-out rows, on the tables' scale; data-to-text: minus the loss
    diverged: bool  # the run failed, and `score` is that of the majority answer
    run_id: str
    setting: str = ""  # the swept values, such as `rank=r4`, if the experiment has several settings


@dataclass
class Choice:
    """The learning rate chosen for a method on some tasks."""

    method: str
    tasks: list[str]
    multiplier: float  # the one with the best mean score
    share: float  # of the resamples of the seeds in which it is the best
    second: float  # the second best
    second_share: float
    difference: float  # mean score of the best less that of the second best
    standard_error: float  # of the difference
    runs: list[str]  # the `Cell.basis` of the runs that this choice is for
    setting: str = ""  # as in `Trial`
    # task -> the `Cell.basis_parts` of its runs; an older file has none
    parts: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def is_sure(self) -> bool:
        """Whether the best factor is sure enough to be the only one in final runs."""
        return self.share >= SURE or self.second == self.multiplier

    @property
    def weight(self) -> float:
        """The weight of the best factor against the second best."""
        return self.share / (self.share + self.second_share)


@dataclass
class Tuning:
    """The content of a tuning file."""

    experiment: str
    profile: str
    by: str  # suite: one multiplier for all tasks of a method; task: one for each
    grid: list[float]  # the multipliers of all groups' grids, without half steps; `trials` has which were tried where
    seeds: list[int]
    choices: list[Choice] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    seconds: float = 0.0  # training and evaluation of all trials
    overrides: list[str] = field(default_factory=list)  # the arguments of the command, after the experiment


def with_earlier(tuning: Tuning, path: Path) -> Tuning:
    """Return a tuning with the choices of an earlier file, and their trials, for methods and tasks that it has not tuned anew."""
    if not path.exists():
        return tuning
    old = load_tuning(path)
    tuned = {(c.method, task, c.setting) for c in tuning.choices for task in c.tasks}
    kept = [c for c in old.choices if not tuned & {(c.method, task, c.setting) for task in c.tasks}]
    own = {(c.method, task, c.setting) for c in kept for task in c.tasks}
    trials = [trial for trial in old.trials if (trial.method, trial.task, trial.setting) in own]
    return replace(
        tuning,
        grid=sorted({*tuning.grid, *old.grid}) if kept else tuning.grid,
        seeds=sorted({*tuning.seeds, *old.seeds}) if kept else tuning.seeds,
        choices=[*tuning.choices, *kept],
        trials=[*tuning.trials, *trials],
        seconds=tuning.seconds + (old.seconds if kept else 0.0),
    )


def save_tuning(tuning: Tuning, path: Path) -> None:
    """Write a tuning file."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.structured(tuning)))


def load_tuning(path: Path) -> Tuning:
    """Read a tuning file.

    Raises:
        UserError: there is none, or it is not one.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise UserError(
            f"protocol=tuned needs {path}, which does not exist: run {same_command('tune')} first"
        ) from None


@lru_cache(maxsize=16)
def _read(path: Path, modified: int) -> Tuning:
    try:
        read = OmegaConf.merge(OmegaConf.structured(Tuning), OmegaConf.load(path))
        return OmegaConf.to_object(read)  # type: ignore[return-value]
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{path} is not a tuning file ({reason}): delete it, then run `{command('tune')}` for its experiment and profile"
        ) from None


def tuning_path(results: Path, stem: str) -> Path:
    """Return the tuning file of an experiment and profile in a results folder; `stem` is that of `file_stem`."""
    return results / "tuned" / f"{stem}.yaml"


def file_stem(experiment: str, profile: str) -> str:
    """Return the stem of the files of an experiment: its name, with the profile as a suffix unless it is mini."""
    return experiment if profile == "mini" else f"{experiment}_{profile}"


def path_for(config: RunConfig) -> Path:
    """Return the tuning file that a run reads."""
    return tuning_path(Path(config.results), config.tuning or file_stem(config.task.suite, config.profile))


def choice_of(
    config: RunConfig, basis: str | None, parts: dict[str, str] | None = None, overrides: Sequence[str] = ()
) -> Choice:
    """Return the choice of the factor of the recipe's learning rate for a run.

    Args:
        config: its configuration.
        basis: its `Cell.basis`; None if the tuning file is part of an archive, whose data and code are not at hand.
        parts: its `Cell.basis_parts`, by which the error tells what is new.
        overrides: those of its cell, by which the choice of its setting is found if there is no basis.

    Raises:
        UserError: no rate was chosen for its method, task and settings, or with other data or code, or with its seed.
    """
    path = path_for(config)
    tuning = load_tuning(path)
    again = command("tune", tuning.experiment, *(tuning.overrides or [f"profile={tuning.profile}"]))
    check_seed(config)
    method, task = config.adapter.method, config.task.name
    named = [choice for choice in tuning.choices if choice.method == method and task in choice.tasks]
    named.sort(key=lambda choice: -len(choice.setting.split()))  # the choice of a setting before one for any
    for choice in named:
        if basis in choice.runs or (basis is None and set(choice.setting.split()) <= set(overrides)):
            tried = {
                t.multiplier for t in tuning.trials if (t.method, t.task, t.setting) == (method, task, choice.setting)
            }
            if not {choice.multiplier, choice.second} <= tried:
                raise UserError(
                    f"{path} names a factor for {method} on {task} that no trial has tried: run `{again}` again"
                )
            return choice
    if named:
        new = min((_differing(choice, task, parts or {}) for choice in named), key=len)
        raise UserError(
            f"{path} has no learning rate for {method} on {task} with {new}: "
            f"it was made with other values: run `{again}` with the same ones as here"
        )
    raise UserError(f"{path} has no learning rate for {method} on {task}: run `{again}` with this method and task")


def _differing(choice: Choice, task: str, parts: dict[str, str]) -> str:
    """Name the parts in which the trials of a choice differ from a run."""
    known = choice.parts.get(task, {})
    new = [part for part in PARTS if known.get(part) != parts.get(part)] if known else []
    return f"these {' and '.join(new)}" if new else f"these {', '.join(PARTS[:-1])} or this {PARTS[-1]}"


def check_seed(config: RunConfig) -> None:
    """Raise a UserError if a run under `protocol=tuned` has a seed that its learning rate was tuned with."""
    if config.protocol == "tuned" and config.seed in load_tuning(path := path_for(config)).seeds:
        raise UserError(f"{as_typed('seed', config.seed)} was used for tuning ({path}): a final run needs another seed")
