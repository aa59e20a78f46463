"""The command line of `tables` and `report`, and the plans and records that it selects."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import MissingConfigException

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.base.files import visible_files
from mtlora.base.messages import as_typed, command, one_line
from mtlora.base.paths import EXPERIMENTS
from mtlora.data.hub import NotDownloaded
from mtlora.plan.experiment import Experiment, load_experiment
from mtlora.plan.grid import Plan, make_plan, parse_overrides
from mtlora.tables.evidence import Evidence, archive, load_evidence

log = logging.getLogger(__name__)

ALL = "all"
RECORDS = "records.jsonl"  # in the folder of a study: its records, one a line


def experiment_names(name: str, overrides: Sequence[str]) -> list[str]:
    """Return the experiment itself, or for `all` every experiment that has the profile and the tasks of the overrides."""
    if name != ALL:
        return [name]
    given = parse_overrides(overrides)
    profile, tasks = given.get("profile", ["mini"])[0], set(given.get("task", []))
    experiments = [load_experiment(path.stem) for path in visible_files(EXPERIMENTS, "*.yaml")]
    experiments.sort(key=lambda e: (e.ablation, e.suite != "glue", e.name))
    return [e.name for e in experiments if profile in e.profiles and tasks <= {c.task for c in e.columns}]


def parser(module: str, description: str) -> cli.Parser:
    """Return the parser of the arguments that both commands share."""
    made = cli.experiment_parser(module, description, ALL)
    made.add_argument(
        "--runs",
        type=lambda text: Path(text).expanduser(),
        help="a runs folder, a records.jsonl, or the folder of a study (default: RESULTS/runs)",
    )
    return made


def load(arguments: argparse.Namespace) -> tuple[list[Plan], Evidence, Path]:
    """Return the plans that a command line names, the records for them, and the results folder.

    Raises:
        UserError: an experiment or a value is unknown, or the path of `--runs` does not exist.
    """
    runs, overrides, archived = arguments.runs, arguments.overrides, None
    if runs is not None and not runs.exists():
        raise UserError(f"{as_typed('--runs', runs)}: there is no such folder or file")
    if runs is not None and (runs / RECORDS).is_file():  # a study: its folder has the place of results/
        overrides = [f"results={runs}", *overrides]
        runs = runs / RECORDS
    evidence = load_evidence(runs) if runs is not None else None
    if evidence is not None and runs.is_file():
        archived = archive(evidence, runs)
        overrides = [*_profile_of(evidence), *overrides]
    plans = []
    suites = {record.suite for record in evidence.records.values()} if evidence and archived else None
    for name in experiment_names(arguments.experiment, overrides):
        try:
            experiment = load_experiment(name)
            if arguments.experiment == ALL and suites is not None and experiment.suite not in suites:
                continue  # the archive has none of its runs, so its learning rates may be missing, too
            recorded = _recorded(experiment, overrides, evidence) if evidence and archived else []
            plans.append(make_plan(experiment, [*recorded, *overrides], archived))
        except (NotDownloaded, MissingConfigException) as error:  # such as a model without a recipe for the task
            if arguments.experiment != ALL:
                raise
            log.warning("%s is left out: %s", name, one_line(error))
    if not plans:
        raise UserError(f"no experiment has {' '.join(overrides)}: name one, such as glue")
    return plans, evidence or load_evidence(plans[0].runs), plans[0].results


def none_finished(arguments: argparse.Namespace, plans: Sequence[Plan]) -> UserError:
    """Return the error that no selected run is finished, with the command that trains them."""
    name = "glue" if arguments.experiment == ALL else arguments.experiment
    if arguments.runs is not None:
        return UserError(f"{as_typed('--runs', arguments.runs)} holds no finished run that is selected: name others")
    train = command("reproduce", name, *arguments.overrides)
    return UserError(f"no selected run is finished in {plans[0].runs}: train with `{train}`")


def _recorded(experiment: Experiment, overrides: Sequence[str], evidence: Evidence) -> list[str]:
    """Return overrides that narrow an experiment to what an archive holds, where the command line does not choose."""
    given = parse_overrides(overrides)
    narrowed = []
    declared = experiment.axes_of(given.get("profile", ["mini"])[0])
    for key in ("task", "transform", "seed", "protocol"):
        found = {str(getattr(record, key)) for record in evidence.records.values()}
        kept = [str(value) for value in declared.get(key, []) if str(value) in found]
        if key not in given and kept:
            narrowed.append(f"{key}={','.join(kept)}")
    return narrowed


def _profile_of(evidence: Evidence) -> list[str]:
    """Return the override of the profile of an archive's runs, if they have one only; an override that follows replaces it."""
    profiles = {record.profile for record in evidence.records.values()}
    return [f"profile={profiles.pop()}"] if len(profiles) == 1 else []
