"""Write one HTML report from records: `python -m mtlora.report EXPERIMENT|all [overrides] [--runs PATH]`."""

import sys

from mtlora.base import cli
from mtlora.report.page import build
from mtlora.tables.command import load, parser
from mtlora.tables.view import View


def main() -> None:
    """Parse the command line and write the report."""
    description = "Write one HTML report (and tables, figures) from records."
    arguments = parser("mtlora.report", description).parse_intermixed_args()
    plans, evidence, results = load(arguments)
    profile = plans[0].profile
    name = "report.html" if profile == "mini" else f"report_{profile}.html"
    build([View(plan, evidence) for plan in plans], evidence, results, name, arguments.overrides)
    print(
        f"written to {results / name}; tables and figures to {results / 'tables'} and {results / 'figures'}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    cli.run(main)
