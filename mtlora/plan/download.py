"""Fetch an experiment's data and model ahead of time: `python -m mtlora.plan.download EXPERIMENT [overrides]`.

Afterwards the same runs need no network (HF_HUB_OFFLINE=1 forbids its use).
"""

from collections.abc import Sequence

from rich.console import Console

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.config.schema import DataConfig, TaskConfig
from mtlora.data.hub import NotDownloaded
from mtlora.data.sources import evaluation_splits, load_split
from mtlora.plan.experiment import Experiment, load_experiment
from mtlora.plan.grid import Plan, make_plan

MODEL_FILES = ["*.json", "*.txt", "*.model", "model.safetensors", "pytorch_model.bin"]


def main() -> None:
    """Parse the command line and fetch every split and snapshot that the experiment's cells read."""
    parser = cli.experiment_parser("mtlora.plan.download", "Fetch data and models ahead of time.")
    arguments = parser.parse_intermixed_args()
    console = Console(stderr=True)
    plan = plan_with_data(load_experiment(arguments.experiment), arguments.overrides, console)
    for cell in {cell.config.task.name: cell for stage in plan.stages for cell in stage}.values():
        fetch_data(cell.config.task, cell.config.data, console)
    for model in {cell.config.model.name: cell.config.model for cell in plan.cells}.values():
        if model.source == "hub" and model.path is None:
            fetch_snapshot(str(model.hub), str(model.revision))
            console.print(f"{model.name}: {model.hub} at {model.revision}")


def plan_with_data(experiment: Experiment, overrides: Sequence[str], console: Console) -> Plan:
    """Return the plan of an experiment, fetching the data without which its cells have no identity.

    A plan identifies each cell by the content of its data, so data on a branch of the hub are fetched before the plan is made.
    """
    while True:
        try:
            return make_plan(experiment, overrides)
        except NotDownloaded as error:
            fetch_data(error.task, DataConfig(source="hub"), console)


def fetch_data(task: TaskConfig, data: DataConfig, console: Console) -> None:
    """Load every split that a run of the task reads, and print its number of rows."""
    for split in ["train", *evaluation_splits(task, data)]:
        rows = len(load_split(task, data, split)[task.text_columns[0]])
        console.print(f"{task.name} {split}: {rows} rows from {data.source}")


def fetch_snapshot(repository: str, revision: str) -> None:
    """Fetch a model's pinned snapshot into the hub's cache.

    Raises:
        UserError: the hub cannot be reached or has no such revision.
    """
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repository, revision=revision, allow_patterns=MODEL_FILES)
    except Exception as error:  # network and repository errors share no base class
        kind = type(error).__name__
        raise UserError(
            f"cannot fetch {repository} at {revision} ({kind}): check the network, or use model.path=DIR"
        ) from None


if __name__ == "__main__":
    cli.run(main)
