"""Make tables from records: `python -m mtlora.tables EXPERIMENT [overrides] [--runs PATH]`."""

import sys

from mtlora.base import cli
from mtlora.tables.command import load, parser
from mtlora.tables.evidence import outside
from mtlora.tables.view import View
from mtlora.tables.write import write_tables


def main() -> None:
    """Parse the command line, write the files, print the Markdown."""
    description = "Make the tables of an experiment, or of all experiments, from records."
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
