"""Train the missing cells of an experiment and print its table: `python -m mtlora.reproduce EXPERIMENT [overrides]`.

A stage holds the cells whose parents belong to earlier stages. Each stage is one sweep in a separate process, which is
`mtlora.train.sweep` for the launchers of one machine, and Hydra for the others. This process watches the records on disk, so the
display is the same under every launcher, and a second call trains nothing again.
"""

import argparse
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from omegaconf import OmegaConf
from rich.console import Console

from mtlora.base import cli
from mtlora.base.cpu import threads_allowed
from mtlora.base.errors import UserError
from mtlora.base.files import is_held, require_writable, visible_files, write_text
from mtlora.base.interrupt import handle_signals
from mtlora.base.messages import as_typed, command, quoted
from mtlora.base.paths import CONF
from mtlora.plan.cell import Cell
from mtlora.plan.download import plan_with_data
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, parse_overrides
from mtlora.plan.show import default_jobs, show
from mtlora.plan.status import SETTLED, State, reason_of, state_of, statuses
from mtlora.records.record import record_status
from mtlora.tables.evidence import load_evidence
from mtlora.tables.view import View
from mtlora.tables.write import write_tables
from mtlora.train.monitor import Monitor, record_time
from mtlora.train.tracking import untracked
from mtlora.train.worker import SECONDS_TO_SAVE

# Launchers whose sweeps run without Hydra, which would compose every cell a second time.
DIRECT = ("cohort", "local")
JOBS = {  # launcher -> its key for the number of runs at a time
    "joblib": "hydra.launcher.n_jobs",
    "slurm": "hydra.launcher.array_parallelism",
    "ray": "hydra.launcher.ray.init.num_cpus",
}
PASSES = 3  # successive sweeps without progress after which a stage is given up


def run_missing(plan: Plan, launcher: str, jobs: int | None, console: Console) -> dict[str, State]:
    """Train every cell that can still succeed, stage by stage; list those that are not done, and return their states.

    A run that has diverged is not tried again, because it would diverge again.
    """
    state = statuses(plan)
    stages = [[cell for cell in stage if state[cell.sha] not in SETTLED] for stage in plan.stages]
    todo = [cell for stage in stages for cell in stage]
    every = [cell for stage in plan.stages for cell in stage]
    for line in untracked([cell for cell in every if state[cell.sha] is State.DONE]):
        console.print(line, markup=False, soft_wrap=True)
    if not todo:
        bad = sum(state[cell.sha] is State.DIVERGED for cell in every)
        console.print(
            f"{plan.name}: all {len(every)} cells are done already" + (f", {bad} of them diverged" if bad else "")
        )
        return report_failures(every, console)
    require_writable(plan.results)
    show(plan, console, jobs)
    with Monitor(todo, console) as monitor:
        for number, stage in enumerate(stages):
            ready = [cell for cell in stage if cell.parent is None or record_status(cell.parent.folder) == "success"]
            run_stage(plan, number, ready, launcher, jobs, monitor)
    return report_failures(every, console)


def run_stage(plan: Plan, stage: int, cells: Sequence[Cell], launcher: str, jobs: int | None, monitor: Monitor) -> None:
    """Sweep the cells of a stage until each is done or has failed; wait for cells that another process is training.

    A second sweep is needed if the first one, or another process that trained some of the cells, was killed. A cell that failed
    in an earlier call is tried again.
    """
    left, fruitless = list(cells), 0
    while left and fruitless < PASSES:
        before = len(left)
        if free := [cell for cell in left if not is_held(cell.lock)]:
            sweep(plan, stage, free, launcher, jobs, monitor)
        monitor.wait_for(left)
        left = [cell for cell in left if not monitor.is_settled(cell)]
        fruitless = fruitless + 1 if len(left) == before else 0


def sweep(plan: Plan, stage: int, cells: Sequence[Cell], launcher: str, jobs: int | None, monitor: Monitor) -> None:
    """Train cells in a separate process and show the progress until it ends; its output goes to a log file.

    Raises:
        UserError: the process failed before it wrote any record.
    """
    # The name is unique, because the same experiment may be running with other overrides.
    log_file = plan.results / "sweeps" / f"{plan.name}-stage{stage}-{uuid.uuid4().hex[:8]}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    monitor.console.print(
        f"sweep of {len(cells)} cell{'s' * (len(cells) != 1)}; log: {log_file}", markup=False, soft_wrap=True
    )
    with log_file.open("w", encoding="utf-8") as log:
        if launcher in DIRECT:
            process = start_sweep(cells, launcher, jobs or 1, log)
        else:
            process = start_hydra_sweep(plan, cells, launcher, jobs, log_file.with_suffix(".json"), log)
        monitor.log = log_file
        watch(process, monitor)
    untouched = all(record_time(cell) == monitor.before[cell.sha] and not is_held(cell.lock) for cell in cells)
    if process.returncode != 0 and untouched:
        lines = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise UserError(f"the sweep ended without a record ({lines[-1] if lines else 'no output'}): see {log_file}")


def start_sweep(cells: Sequence[Cell], launcher: str, jobs: int, log: IO[str]) -> "subprocess.Popen[bytes]":
    """Start a process that trains cells which this process has composed."""
    most = OmegaConf.load(CONF / "hydra" / "launcher" / f"{launcher}.yaml").max_runs
    command = [sys.executable, "-m", "mtlora.train.sweep", str(jobs), str(most), *sys.argv[1:]]
    with tempfile.TemporaryFile() as stream:
        pickle.dump(list(cells), stream)
        stream.seek(0)
        return subprocess.Popen(command, stdin=stream, stdout=log, stderr=subprocess.STDOUT)


def start_hydra_sweep(
    plan: Plan, cells: Sequence[Cell], launcher: str, jobs: int | None, jobs_file: Path, log: IO[str]
) -> "subprocess.Popen[bytes]":
    """Start Hydra with one job for each cell, for a launcher that may use other machines."""
    write_text(jobs_file, json.dumps([cell.overrides for cell in cells], indent=0))
    command = [sys.executable, "-m", "mtlora.train", "-m", f"hydra.sweeper.file={quoted(str(jobs_file))}"]
    command += [f"hydra/launcher={launcher}", f"results={quoted(str(plan.results))}"]
    environment = dict(os.environ)
    if launcher == "joblib":  # the other launchers limit the cores of a job themselves
        threads = max(1, threads_allowed() // (jobs or 1))
        environment["OMP_NUM_THREADS"] = str(threads)
        if "compute.threads" not in plan.axes:
            command.append(f"compute.threads={threads}")
    if jobs is not None and launcher in JOBS:
        command.append(f"{JOBS[launcher]}={jobs}")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def watch(process: "subprocess.Popen[bytes]", monitor: Monitor) -> None:
    """Show progress until a sweep ends; pass Ctrl-C and SIGTERM on to it, and give it time to save."""
    try:
        while process.poll() is None:
            monitor.look()
            time.sleep(0.5)
    except (KeyboardInterrupt, SystemExit) as stop:
        # A terminal's Ctrl-C has reached the sweep, too, but only the first signal counts there.
        process.send_signal(signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=SECONDS_TO_SAVE + 10)
        raise
    monitor.look()


def report_failures(cells: Sequence[Cell], console: Console) -> dict[str, State]:
    """List the cells that are not done, with the reason from their records; return their states by config_sha."""
    states = [(cell, state_of(cell)) for cell in cells]
    failures = [(cell, state) for cell, state in states if state != State.DONE]
    for cell, state in failures:
        console.print(f"not done: {cell.run_id} ({state}): {reason_of(cell, state)}", markup=False)
    return {cell.sha: state for cell, state in failures}


LAUNCHERS = [path.stem for path in visible_files(CONF / "hydra" / "launcher", "*.yaml")]


def start(module: str, description: str) -> tuple[argparse.Namespace, Console]:
    """Start a command that trains the cells of an experiment: return its arguments and the console for its progress.

    Raises:
        UserError: `--launcher` has a value that is not allowed.
    """
    parser = cli.experiment_parser(module, description)
    parser.add_argument(
        "--launcher",
        help=f"{', '.join(LAUNCHERS)} (default: cohort)",
    )
    parser.add_argument(
        "--jobs", type=cli.jobs, help="runs or cohorts at a time (default: one per core in the mini profile, else 1)"
    )
    arguments = parser.parse_intermixed_args()
    if arguments.launcher not in (None, *LAUNCHERS):
        named = as_typed("--launcher", arguments.launcher)
        raise UserError(f"{named} is not known: choose one of {', '.join(LAUNCHERS)}")
    handle_signals()
    return arguments, Console(stderr=True)


def launching(arguments: argparse.Namespace, plan: Plan) -> tuple[str, int | None]:
    """Return the launcher, and the number of runs at a time; None: the launcher decides, because it uses other machines."""
    launcher: str = arguments.launcher or "cohort"
    jobs: int | None = arguments.jobs
    if jobs is None and launcher in (*DIRECT, "joblib"):
        jobs = default_jobs(plan.profile)
    return launcher, jobs


def main() -> None:
    """Parse the command line, train the missing cells, print the table; exit code 1 if a cell is not done."""
    arguments, console = start("mtlora.reproduce", "Run an experiment and print its table.")
    if parse_overrides(arguments.overrides).get("data.split", ["full"]) != ["full"]:
        raise UserError(f"data.split=tune belongs to `{command('tune', arguments.experiment)}`: leave it out here")
    plan = plan_with_data(load_experiment(arguments.experiment), arguments.overrides, console)
    left = run_missing(plan, *launching(arguments, plan), console)
    tables = plan.results / "tables"
    view = View(plan, load_evidence(plan.runs))
    if view.has_results:
        print(write_tables(view, tables)[0])
        report = command("report", arguments.experiment, *arguments.overrides)
        console.print(
            f"written to {tables / plan.name}.md, .tex, .html, .csv; `{report}` draws figures",
            markup=False,
            soft_wrap=True,
        )
    else:
        console.print("no run is finished, so there is no table")
    if any(state is not State.DIVERGED for state in left.values()):
        raise UserError("some cells are not done (listed above): the same command tries them again")
    if left:
        raise UserError(
            "some runs diverged (listed above): the tables say so, and the same command would not try them again"
        )


if __name__ == "__main__":
    cli.run(main)
