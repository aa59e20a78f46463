"""The grid of an experiment: the composition of its cells under given overrides."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType, ValueType
from omegaconf import OmegaConf

from mtlora.base.errors import UserError, did_you_mean
from mtlora.base.messages import as_typed
from mtlora.base.paths import CONF
from mtlora.plan.cell import Archive, Cell, compose_cell, with_seed
from mtlora.plan.experiment import Column, Experiment
from mtlora.plan.tuning import FIRST_SEED, file_stem, tuning_path

LISTED = (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP, ValueType.RANGE_SWEEP)  # sweeps with a list of values
# The runs of tuning, data.split=tune: factors of the recipe's learning rate, and seeds that no final run uses.
TUNING_GRID = [0.25, 0.5, 1.0, 2.0, 4.0]
TUNING_SEEDS = [FIRST_SEED, FIRST_SEED + 1]
MOST_VALUES = 10_000  # of one key
PREFIXES = {OverrideType.ADD: "+", OverrideType.FORCE_ADD: "++"}


@dataclass(frozen=True)
class Plan:
    """The cells of an experiment under given overrides, in the order in which they run."""

    experiment: Experiment
    profile: str
    axes: dict[str, list[str]]
    cells: list[Cell]
    confirm: list[Cell] = field(
        default_factory=list
    )  # tuned runs at the second best learning rate, where the choice is unsure

    @property
    def every(self) -> list[Cell]:
        """The cells of the tables, and those that only confirm a choice."""
        return [*self.cells, *self.confirm]

    @property
    def archived(self) -> bool:
        """Whether the cells are the runs of an archive, whose data and weights are not at hand."""
        return bool(self.cells) and self.cells[0].archive is not None

    @property
    def name(self) -> str:
        """The stem of every file made from this plan.

        The profile is a suffix unless it is mini, and the protocol unless it is the one of `usual_protocol`: `glue`,
        `glue_tuned`, `glue_paper_matched`; `glue_protocols` if there are several.
        """
        parts = [self.stem]
        if {cell.config.data.split for cell in self.cells} == {"tune"}:
            parts.append("tuning")
        elif len(self.protocols) > 1:
            parts.append("protocols")
        elif self.protocols[0] != usual_protocol(self.experiment, self.profile):
            parts.append(self.protocols[0])
        return "_".join(parts)

    @property
    def stem(self) -> str:
        """The experiment, with the profile as a suffix unless it is mini; the name of its tuning file."""
        return file_stem(self.experiment.name, self.profile)

    @property
    def tuning_path(self) -> Path:
        """The tuning file of the experiment and profile."""
        return tuning_path(self.results, self.stem)

    @property
    def protocols(self) -> list[str]:
        """The protocols of the cells."""
        return list(dict.fromkeys(cell.config.protocol for cell in self.cells))

    @property
    def columns(self) -> list[Column]:
        """The experiment's columns whose task is part of the plan."""
        tasks = {cell.config.task.name for cell in self.cells}
        return [column for column in self.experiment.columns if column.task in tasks]

    @property
    def results(self) -> Path:
        """The deepest folder that holds the results of all cells, which may differ (`results=out/${seed}`)."""
        return Path(os.path.commonpath(self._folders()))

    @property
    def runs(self) -> Path:
        """The deepest folder that holds the records of all cells."""
        return Path(os.path.commonpath(self._folders("runs")))

    def _folders(self, below: str = "") -> set[Path]:
        folders = {Path(cell.config.results) / below for cell in self.cells}
        return folders if len({folder.is_absolute() for folder in folders}) == 1 else {f.resolve() for f in folders}

    @property
    def stages(self) -> list[list[Cell]]:
        """The cells and their parents by depth: the parents of a cell are in an earlier stage."""
        by_sha: dict[str, Cell] = {}
        for cell in self.every:
            line = [cell]
            while line[-1].parent is not None:
                line.append(line[-1].parent)
            for ancestor in reversed(line):
                by_sha.setdefault(ancestor.sha, ancestor)
        stages: dict[int, list[Cell]] = {}
        for cell in by_sha.values():
            stages.setdefault(depth(cell), []).append(cell)
        return [stages[depth] for depth in sorted(stages)]


def depth(cell: Cell) -> int:
    """Return the number of runs that a cell starts from, directly or through its parent."""
    return 0 if cell.parent is None else 1 + depth(cell.parent)


def make_plan(experiment: Experiment, overrides: Sequence[str], archive: Archive | None = None) -> Plan:
    """Compose every cell of an experiment.

    An override of an axis replaces its values (`seed=0,1,2`); any other override applies to every cell (`train.epochs=1`).
    With an archive the cells are its runs, and neither data nor weights are needed.

    Raises:
        UserError, hydra.errors.HydraException: an unknown profile, key or value.
    """
    given = parse_overrides(overrides)
    profiles = given.get("profile", ["mini"])
    known = ", ".join(experiment.profiles)
    if len(profiles) > 1:
        raise UserError(f"{as_typed('profile', ','.join(profiles))}: a table holds one profile: choose one of {known}")
    profile = profiles[0]
    if profile not in experiment.profiles:
        near = did_you_mean(profile, experiment.profiles)
        raise UserError(
            f"{as_typed('profile', profile)} is not part of experiment {experiment.name}: choose one of {known}{near}"
        )
    declared = experiment.axes_of(profile)
    if given.get("data.split") == ["tune"]:
        declared |= {"seed": TUNING_SEEDS, "train.lr_multiplier": TUNING_GRID, "protocol": ["matched"]}
    axes = {**{key: [str(v) for v in values] for key, values in declared.items()}, **given}
    if "tuned" in axes.get("protocol", []) and experiment.name != experiment.suite:
        axes.setdefault("tuning", [file_stem(experiment.name, profile)])
    _check_tasks(experiment, axes.get("task", []))
    products = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    wanted = [product for product in products if not is_excluded(product, experiment)]
    if not wanted:
        raise UserError(f"experiment {experiment.name} excludes every combination of these values: name others")
    composed = _compose(wanted, _prefixes(overrides), archive)
    if "task" not in axes:  # so it is the configuration's default
        _check_tasks(experiment, [cell.config.task.name for cell in composed])
    # Two combinations may be the same run; under two protocols it is a row of each.
    cells = {(cell.sha, cell.config.protocol): cell for cell in composed}
    unsure = [product for product, cell in zip(wanted, composed, strict=True) if is_unsure(cell)]
    confirm = _compose([product | {"tuned_choice": "second"} for product in unsure], _prefixes(overrides), archive)
    return Plan(experiment, profile, axes, list(cells.values()), confirm)


def _check_tasks(experiment: Experiment, named: Sequence[str]) -> None:
    """Check that an experiment has a column for each task, before a missing recipe or file of it is reported."""
    tasks = list(dict.fromkeys(column.task for column in experiment.columns))
    if alien := [task for task in named if task not in tasks]:
        near = did_you_mean(alien[0], tasks) or f", or add a column for it to experiments/{experiment.name}.yaml"
        raise UserError(
            f"{as_typed('task', alien[0])}: experiment {experiment.name} has no such task: "
            f"choose one of {', '.join(tasks)}{near}"
        )


def is_unsure(cell: Cell) -> bool:
    """Tell whether a cell's learning rate is a tuned choice that too few resamples make."""
    return cell.config.protocol == "tuned" and not cell.choice.is_sure


def usual_protocol(experiment: Experiment, profile: str) -> str:
    """Return the protocol that an experiment has where the command line names none."""
    return str(
        experiment.axes_of(profile).get("protocol", [OmegaConf.load(CONF / "profile" / f"{profile}.yaml").protocol])[0]
    )


def is_excluded(product: dict[str, str], experiment: Experiment) -> bool:
    """Tell whether an experiment excludes a combination of override values."""
    return any(fits(product, rule) for rule in experiment.exclude)


def fits(product: dict[str, str], rule: dict[str, Any]) -> bool:
    """Tell whether a combination of override values has all values of one rule of `exclude`."""
    return all(product.get(key) == str(value) for key, value in rule.items())


def _compose(products: Sequence[dict[str, str]], prefixes: dict[str, str], archive: Archive | None) -> list[Cell]:
    """Compose the cells; composing takes 50 ms, so cells that differ only in the seed are derived from one of them."""
    cells: list[Cell] = []
    siblings: dict[tuple[str, ...], Cell] = {}
    for product in products:
        overrides = [f"{prefixes.get(key, '')}{key}={value}" for key, value in product.items()]
        seed = product.get("seed", "")
        others = tuple(f"{key}={value}" for key, value in product.items() if key != "seed")
        interpolated = any("$" in value for value in product.values())  # such as results=out/${seed}
        sibling = siblings.get(others) if seed.isdecimal() and not interpolated else None
        cells.append(compose_cell(overrides, archive) if sibling is None else with_seed(sibling, int(seed)))
        siblings.setdefault(others, cells[-1])
    return cells


def _prefixes(overrides: Sequence[str]) -> dict[str, str]:
    """Return the `+` or `++` of overrides that add a key to the configuration, by key."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {override.key_or_group: PREFIXES.get(override.type, "") for override in parsed}


def parse_overrides(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each override `key=a,b`, by Hydra's grammar, without duplicates; the last override of a key wins.

    Raises:
        UserError, hydra.errors.OverrideParseException: an override is no assignment, or a sweep without a list of values.
    """
    parsed: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.is_delete():
            raise UserError(f"{override.input_line} removes a key, but every key is needed: give it a value instead")
        if not override.is_sweep_override():
            values = [override.get_value_element_as_str()]
        elif override.value_type in LISTED:
            # An infinite range would never end; the sweep of a range is a generator.
            values = [str(value) for value in itertools.islice(override.sweep_string_iterator(), MOST_VALUES + 1)]
            if len(values) > MOST_VALUES:
                raise UserError(
                    f"{override.input_line} names more than {MOST_VALUES} values: give a shorter list or range"
                )
        else:
            raise UserError(f"{override.input_line} names no values: list them, as in {as_typed('seed', '0,1')}")
        parsed[override.key_or_group] = list(dict.fromkeys(values))
    return parsed
