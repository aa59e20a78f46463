"""Write one HTML report from records: `python -m mtlora.report EXPERIMENT|all [overrides] [--runs PATH]`."""

import sys

from mtlora.base import cli
from mtlora.plan.tuning import file_stem
from mtlora.report.page import build
from mtlora.report.verdicts import answer
from mtlora.tables.command import load, none_finished, notices, parser, split_by_runs


def main() -> None:
    """Parse the command line and write the report."""
    description = "Write one HTML report (and tables, figures) from records."
    arguments = parser("mtlora.report", description).parse_intermixed_args()
    views = load(arguments)
    results, profile = views[0].plan.results, views[0].plan.profile
    name = f"{file_stem('report', profile)}.html"
    shown, _ = split_by_runs(views)
    for line in notices(views, shown):
        print(line, file=sys.stderr)
    if not any(view.found.started or view.tuning for view in views):  # an earlier report stays as it is
        print(none_finished(arguments, views), file=sys.stderr)
        return
    build(views, results, name, arguments.overrides, arguments.runs)
    found = answer(shown)
    print("\n".join(filter(None, (found.short, found.open))))
    print(
        f"written to {results / name}; tables and figures to {results / 'tables'} and {results / 'figures'}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    cli.run(main)
