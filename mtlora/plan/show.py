"""The display of a plan: its cells by state, and the time and the commands of the cells that are left."""

import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mtlora.base.cpu import available_cores
from mtlora.base.progress import DAY, duration
from mtlora.plan.estimate import estimate
from mtlora.plan.grid import Plan
from mtlora.plan.status import SETTLED, State, statuses


def show(plan: Plan, console: Console, jobs: int | None) -> None:
    """Print the cells by state, and the cost of those left with `jobs` runs at a time (None: a cluster decides)."""
    state = statuses(plan)
    cells = [cell for stage in plan.stages for cell in stage]
    table = Table(title=f"{plan.name}: {len(cells)} cells", title_justify="left")
    for heading in ("task", *State):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for task in dict.fromkeys(cell.config.task.name for cell in cells):
        counts = Counter(state[cell.sha] for cell in cells if cell.config.task.name == task)
        table.add_row(task, *(str(counts[kind] or "") for kind in State))
    console.print(table)
    methods = {cell.config.adapter.method for cell in plan.cells}
    if "lora" in plan.experiment.axes_of(plan.profile).get("transform", []) and "lora" not in methods:
        console.print("lora is not among the methods, so the table will have no differences: add it")
    rest = [cell for cell in cells if state[cell.sha] not in SETTLED]
    cost = estimate([cell for cell in rest if state[cell.sha] != State.UNSCORED], cells)
    how = {None: "if run one after another", 1: "one after another"}.get(jobs, f"{jobs} at a time")
    share = jobs if jobs and cost.divisible else 1
    seconds = (cost.seconds + cost.overhead) / share
    long = seconds > DAY
    gpu = f"; about {duration(cost.a100)} on one A100 (a guess)" if long else ""
    console.print(
        f"{len(rest)} cell{'s' * (len(rest) != 1)} to run: {cost.flops:.2g} FLOP, {cost.tokens:.2g} training tokens, "
        f"about {duration(seconds)}{' on this machine' * long} {how} ({cost.basis}); "
        f"{duration(cost.overhead / share)} of it for start-up and scoring{gpu}",
        soft_wrap=True,
    )


def commands(plan: Plan) -> Iterator[str]:
    """Yield the command of every cell that `mtlora.reproduce` would train; parents come first."""
    state = statuses(plan)
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    for stage in plan.stages:
        for cell in stage:
            if state[cell.sha] not in SETTLED:
                yield shlex.join([str(python), "-m", "mtlora.train", *cell.overrides])


def default_jobs(profile: str) -> int:
    """Return the default number of runs at a time of `mtlora.reproduce`: one per core in the mini profile, else 1."""
    return available_cores() if profile == "mini" else 1
