"""List the cells of an experiment and the time they need: `python -m mtlora.plan EXPERIMENT [overrides]`."""

from rich.console import Console

from mtlora.base import cli
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import make_plan
from mtlora.plan.show import commands, default_jobs, show
from mtlora.tables.comparison import reach
from mtlora.tables.evidence import load_evidence
from mtlora.tables.view import View


def main() -> None:
    """Parse the command line and print the plan."""
    parser = cli.experiment_parser("mtlora.plan", "Show what an experiment still has to run, and how long it takes.")
    parser.add_argument("--jobs", type=cli.jobs, help="runs at a time (default: as mtlora.reproduce)")
    parser.add_argument("--commands", action="store_true", help="print the commands of the cells that are not done")
    arguments = parser.parse_intermixed_args()
    plan = make_plan(load_experiment(arguments.experiment), arguments.overrides)
    if arguments.commands:
        print("\n".join(commands(plan)))
    else:
        console = Console()
        show(plan, console, arguments.jobs or default_jobs(plan.profile))
        if (text := reach(plan, View(plan, load_evidence(plan.runs)).comparisons)) is not None:
            console.print(text)


if __name__ == "__main__":
    cli.run(main)
