"""Fetch an experiment's data and model ahead of time: `python -m mtlora.plan.download EXPERIMENT [overrides]`.

Afterwards the same runs never ask the hub, with or without HF_HUB_OFFLINE=1.
"""

from collections.abc import Sequence

from rich.console import Console

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.base.messages import one_line
from mtlora.config.schema import DataConfig, TaskConfig
from mtlora.data import hub
from mtlora.data.sources import evaluation_splits, load_contexts, load_split
from mtlora.plan.experiment import Experiment, load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.plan.model_files import fetch_model


def main() -> None:
    """Parse the command line and fetch every split and snapshot that the experiment's cells read."""
    parser = cli.experiment_parser("mtlora.plan.download", "Fetch data and models ahead of time.")
    arguments = parser.parse_intermixed_args()
    cli.configure_logging()
    console = Console(stderr=True, soft_wrap=True)
    plan = plan_with_data(load_experiment(arguments.experiment), arguments.overrides, console)
    tasks = list({c.config.task.name: (c.config.task, c.config.data) for stage in plan.stages for c in stage}.values())
    for task, data in tasks:
        if data.source == "hub":
            hub.fetch(task, hub_splits(task))
    for model in {cell.config.model.name: cell.config.model for cell in plan.cells}.values():
        if model.source == "hub" and model.path is None:
            folder = fetch_model(model)
            console.print(f"{model.name}: {model.hub} at {model.revision} in {folder}", highlight=False)
    if packaged := [task.name for task, data in tasks if data.source == "builtin"]:
        console.print(f"{', '.join(packaged)}: the texts come with the package; there is nothing to fetch")
    refused = []
    for task, data in tasks:
        if data.source == "builtin":
            continue
        try:
            check_data(task, data, console)
        except UserError as error:  # the other tasks may be whole
            refused.append(f"{task.name}: {one_line(error)}")
    for line in refused[1:]:
        console.print(line, markup=False, highlight=False)
    if refused:
        others = f" ({len(refused) - 1} other tasks cannot be used either: listed above)" if refused[1:] else ""
        raise UserError(refused[0] + others)


def plan_with_data(experiment: Experiment, overrides: Sequence[str], console: Console) -> Plan:
    """Return the plan of an experiment, fetching the data without which its cells have no identity.

    A plan identifies each cell by the commit of its data, so data on a branch of the hub are fetched before the plan is made.
    """
    fetched = set()
    while True:
        try:
            return make_plan(experiment, overrides)
        except hub.NotDownloaded as error:
            if error.task.name in fetched:
                raise
            fetched.add(error.task.name)
            console.print(f"fetching {error.task.hub.path} for {error.task.name}", highlight=False)
            hub.fetch(error.task, hub_splits(error.task))


def hub_splits(task: TaskConfig) -> list[str]:
    """Return every split of a task that its runs read from the hub."""
    return ["train", *evaluation_splits(task, DataConfig(source="hub"))]


def check_data(task: TaskConfig, data: DataConfig, console: Console) -> None:
    """Read every split that a run of the task reads, and print its number of rows.

    Raises:
        UserError: a split has broken rows, or another number of them than the task declares.
    """
    for split in ["train", *evaluation_splits(task, data)]:
        if task.kind == "generation" and split == "test":
            found = f"{len(load_contexts(task, data))} contexts"
        else:
            found = f"{len(load_split(task, data, split)[task.text_columns[0]])} rows"
        console.print(f"{task.name} {split}: {found} from {data.source}", highlight=False)


if __name__ == "__main__":
    cli.run(main)
