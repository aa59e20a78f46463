"""The command line of `tables` and `report`, the experiments with records that it selects, and the runs that it does not."""

import argparse
import logging
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.errors import MissingConfigException

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.base.files import visible_files
from mtlora.base.messages import as_typed, as_variable, command, one_line
from mtlora.base.paths import EXPERIMENTS
from mtlora.data.hub import NotDownloaded
from mtlora.plan.cell import override_key
from mtlora.plan.experiment import Experiment, load_experiment
from mtlora.plan.grid import Plan, make_plan, parse_overrides
from mtlora.records.record import RunRecord
from mtlora.tables.evidence import archive, load_evidence
from mtlora.tables.view import View

log = logging.getLogger(__name__)

ALL = "all"
RECORDS = "records.jsonl"  # in the folder of a study: its records, one a line
NARROWED = ("task", "transform", "seed", "protocol")  # keys of which an archive may hold only some values
AXES = ("task", "transform", "seed", "rank", "targets", "model", "protocol")  # a table may hold several values of each


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


def load(arguments: argparse.Namespace) -> list[View]:
    """Return the experiments that a command line names, with their records; `plan.results` is the folder of the results.

    Raises:
        UserError: an experiment or a value is unknown, or the path of `--runs` does not exist.
    """
    runs, overrides, archived = arguments.runs, arguments.overrides, None
    if runs is not None and not runs.exists():
        raise UserError(f"{as_typed('--runs', runs)}: there is no such folder or file")
    if runs is not None and (runs / RECORDS).is_file():  # a study: its folder has the place of results/
        overrides = [cli.path_override(f"results={runs}"), *overrides]
        runs = runs / RECORDS
    evidence = load_evidence(runs) if runs is not None else None
    records: Sequence[RunRecord] = ()  # of an archive
    if evidence is not None and runs.is_file():
        archived = archive(evidence, runs)
        records = list(evidence.records.values())
        if len(profiles := {record.profile for record in records}) == 1:
            overrides = [f"profile={profiles.pop()}", *overrides]  # the command line may name another
    plans = []
    for name in experiment_names(arguments.experiment, overrides):
        try:
            experiment = load_experiment(name)
            if arguments.experiment == ALL and records and experiment.suite not in {record.suite for record in records}:
                continue  # the archive has none of its runs, so its learning rates may be missing, too
            plans.append(make_plan(experiment, [*_narrowed(experiment, overrides, records), *overrides], archived))
        except (NotDownloaded, MissingConfigException) as error:  # such as a model without a recipe for the task
            if arguments.experiment != ALL:
                raise
            log.warning("%s is left out: %s", name, one_line(error))
    if not plans:
        raise UserError(f"no experiment has {' '.join(overrides)}: name one, such as glue")
    evidence = evidence or load_evidence(plans[0].runs)
    return [View(plan, evidence) for plan in plans]


def none_finished(arguments: argparse.Namespace, views: Sequence[View]) -> str:
    """Return the line that no selected run is finished, with the command that trains them: nothing has gone wrong then.

    Raises:
        UserError: the runs that `--runs` names hold none that is selected.
    """
    if arguments.runs is not None:
        raise UserError(
            f"{as_typed('--runs', arguments.runs)} holds no finished run that is selected: "
            "select others, or name another folder"
        )
    train = command("reproduce", "glue" if arguments.experiment == ALL else arguments.experiment, *arguments.overrides)
    return f"no selected run is finished in {views[0].plan.runs}: train with `{train}`"


def _narrowed(experiment: Experiment, overrides: Sequence[str], records: Sequence[RunRecord]) -> list[str]:
    """Return overrides that narrow an experiment to what an archive holds, where the command line does not choose.

    A method with runs on only some of the tasks belongs to another experiment, such as the controls, if others have all.
    """
    given = parse_overrides(overrides)
    profile = given.get("profile", ["mini"])[0]
    if not records or profile not in experiment.profiles:
        return []
    declared = experiment.axes_of(profile)
    kept = {}
    for key in NARROWED:
        held = {str(getattr(record, key)) for record in records}
        kept[key] = given.get(key) or [value for value in map(str, declared.get(key, [])) if value in held]
    # Whatever the protocol, because a run may serve several.
    runs = {(r.transform, r.task) for r in records if not kept["seed"] or str(r.seed) in kept["seed"]}
    complete = [method for method in kept["transform"] if all((method, task) in runs for task in kept["task"])]
    kept["transform"] = complete or kept["transform"]
    return [f"{key}={','.join(values)}" for key, values in kept.items() if values and key not in given]


def split_by_runs(views: Sequence[View]) -> tuple[list[View], list[View]]:
    """Return the views whose experiment has been run, and the others.

    An ablation has not been run if another experiment has all of its runs, such as the rank that both have in common.
    """
    runs = [view.found.started for view in views]
    shared = [
        any(own < other or (own == other and k < i) for k, other in enumerate(runs)) for i, own in enumerate(runs)
    ]
    shown = [
        view
        for view, own, is_shared in zip(views, runs, shared, strict=True)
        if own and not (view.plan.experiment.ablation and is_shared)
    ]
    return shown, [view for view in views if view not in shown]


def outside(views: Sequence[View], shown: Callable[[str], str] | None = None) -> list[str]:
    """Return one line, or none, about the finished runs of this profile that no view selects, with the command for them.

    The command is as the user types it, or for a page, which is passed on, one of make, each argument changed by `shown`.
    """
    plans, evidence = [view.plan for view in views], views[0].evidence
    cells = [cell for plan in plans for stage in plan.stages for cell in stage]
    selected = {cell.sha for cell in cells}
    others = [
        record
        for sha, record in evidence.records.items()
        if sha not in selected
        and record.status == "success"
        and record.profile == plans[0].profile
        and "data.split=tune" not in record.overrides  # the trials of mtlora.tune are no runs of a table
    ]
    if others:  # `problems` reports the runs of the same configuration
        twins = {cell.configuration for cell in cells}
        named = {sha for key, shas in evidence.configurations.items() if key in twins for sha in shas}
        others = [record for record in others if record.config_sha not in named]
    if not others:
        return []
    one = len(others) == 1
    return [
        f"{len(others)} finished run{'' if one else 's'} of this profile {'is' if one else 'are'} in no table here: "
        f"{_command(plans, others, shown)}"
    ]


def notices(views: Sequence[View], shown: Sequence[View]) -> list[str]:
    """Return a line for all that the tables of some views lack; `shown` are those whose experiment has been run."""
    return [*outside(views), *(f"{view.plan.name}: {line}" for view in shown for line in view.problems)]


def _command(plans: Sequence[Plan], others: Sequence[RunRecord], shown: Callable[[str], str] | None) -> str:
    """Return the command that makes the table of runs outside of it, or of most of them."""
    sweeps: dict[tuple[str, ...], list[RunRecord]] = {}  # by suite and the overrides that are no axis of an experiment
    for record in others:
        sweeps.setdefault((record.suite, *(o for o in record.overrides if override_key(o) not in AXES)), []).append(
            record
        )
    (suite, *fixed), found = max(sweeps.items(), key=lambda sweep: len(sweep[1]))
    values: dict[str, dict[str, None]] = {}
    for override in (o for record in found for o in record.overrides if override_key(o) in AXES):
        values.setdefault(override_key(override), {})[override.partition("=")[2]] = None
    name = plans[0].experiment.name if len(plans) == 1 else suite
    declared = next((p.experiment.axes_of(p.profile) for p in plans if p.experiment.name == name), {})
    archived = plans[0].archived
    if archived and "transform" in values:  # `_narrowed` left these methods out: beside those of the table
        for plan in (p for p in plans if p.experiment.name == name):
            values["transform"].update(dict.fromkeys(cell.config.adapter.method for cell in plan.cells))
    narrowed = {key: named for key, named in values.items() if set(named) != {str(v) for v in declared.get(key, ())}}
    words = [f"{key}={','.join(sorted(named, key=_order))}" for key, named in narrowed.items()]
    if archived:  # which needs no data
        words += [o for o in fixed if override_key(o) != "data.root"]
        runs = [as_typed("--runs", plans[0].results)]
    else:
        words, runs = [*words, *fixed], []
    some = f"for {len(found)} of them, " if len(found) < len(others) else ""
    if shown is None:
        return some + " ".join([command("tables", name, *words), *runs])
    return f"{some}make tables {shlex.join(shown(as_variable(word)) for word in [f'SUITE={name}', *words])}"


def _order(value: str) -> tuple[int, str]:
    return len(value), value  # of numbers: by size
