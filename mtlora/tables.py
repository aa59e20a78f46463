"""Tables from records: `python -m mtlora.tables EXPERIMENT [overrides] [--runs PATH]` writes Markdown, LaTeX, HTML and CSV.

The experiment and its overrides define the cells by `config_sha`; only their records enter the table, so short runs, other
profiles and old sweeps never mix in.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtlora import cli
from mtlora.analysis.comparison import comparison_frame
from mtlora.analysis.convention import convention
from mtlora.analysis.differences import differences, items
from mtlora.analysis.evidence import Evidence, load_evidence, outside
from mtlora.analysis.formats import html_page, latex, markdown
from mtlora.analysis.layout import TextTable
from mtlora.analysis.scores import cost, scores
from mtlora.analysis.view import View
from mtlora.config import EXPERIMENTS
from mtlora.errors import UserError
from mtlora.experiment import Plan, load_experiment, make_plan, parse_overrides
from mtlora.files import write_text

ALL = "all"


def all_tables(view: View) -> list[TextTable]:
    """Return a plan's tables that hold anything, the scores first."""
    tables = [scores(view), convention(view), differences(view, contrasts=False), differences(view, contrasts=True)]
    return [table for table in (*tables, items(view), cost(view)) if table is not None]


def write_tables(view: View, folder: Path) -> tuple[str, list[TextTable]]:
    """Write a plan's tables in every format, the long CSV, the comparisons and the cost; return the Markdown and the tables."""
    name = view.plan.name
    tables = all_tables(view)
    text = "\n".join(map(markdown, tables))
    write_text(folder / f"{name}.md", text)
    write_text(folder / f"{name}.tex", latex(tables))
    write_text(folder / f"{name}.html", html_page(view.plan.experiment.title, tables))
    write_text(folder / f"{name}.csv", view.summary.to_csv(index=False))
    write_text(folder / f"{name}_comparisons.csv", comparison_frame(view.plan, view.comparisons).to_csv(index=False))
    write_text(folder / f"{name}_cost.csv", view.cost.to_csv(index=False))
    return text, tables


def experiment_names(name: str, overrides: Sequence[str]) -> list[str]:
    """Return the experiment itself, or for `all` every one that has the profile, and the tasks, of the overrides."""
    if name != ALL:
        return [name]
    given = parse_overrides(overrides)
    profile, tasks = given.get("profile", ["mini"])[0], set(given.get("task", []))
    experiments = [load_experiment(path.stem) for path in EXPERIMENTS.glob("*.yaml")]
    experiments.sort(key=lambda e: (e.ablation, e.suite != "glue", e.name))
    return [e.name for e in experiments if profile in e.profiles and tasks <= {c.task for c in e.columns}]


def parser(module: str, description: str) -> cli.Parser:
    """Return a parser of what the commands that read records share."""
    made = cli.experiment_parser(module, description)
    made.add_argument("--runs", type=Path, help="a runs folder or a records.jsonl (default: RESULTS/runs)")
    return made


def load(arguments: argparse.Namespace) -> tuple[list[Plan], Evidence, Path]:
    """Return the plans that a command line names, the records for them, and the results folder.

    Raises:
        UserError: an unknown experiment or value, or `--runs` names nothing.
    """
    names = experiment_names(arguments.experiment, arguments.overrides)
    plans = [make_plan(load_experiment(name), arguments.overrides) for name in names]
    if not plans:
        raise UserError(f"no experiment has {' '.join(arguments.overrides)}: name one, such as glue")
    results = Path(plans[0].cells[0].config.results)
    runs = arguments.runs or results / "runs"
    if arguments.runs is not None and not runs.exists():
        raise UserError(f"--runs {runs}: there is no such folder or file")
    return plans, load_evidence(runs), results


def main() -> None:
    """Parse the command line, write the files, print the Markdown."""
    description = "Make an experiment's tables (or those of all) from records."
    arguments = parser("mtlora.tables", description).parse_intermixed_args()
    plans, evidence, results = load(arguments)
    for line in outside(plans, evidence):
        print(line, file=sys.stderr)
    if not evidence.records:
        print(f"there is no record in {arguments.runs or results / 'runs'} yet: the tables are empty", file=sys.stderr)
    texts = []
    for plan in plans:
        view = View(plan, evidence)
        texts.append(write_tables(view, results / "tables")[0])
        for line in view.problems if view.touched else ():
            print(f"{plan.name}: {line}", file=sys.stderr)
    print("\n".join(texts), end="")
    print(f"written to {results / 'tables'}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
