"""Make tables from records: `python -m mtlora.tables EXPERIMENT [overrides] [--runs PATH]`."""

import sys

from mtlora.base import cli
from mtlora.tables.command import load, none_finished, notices, parser, split_by_runs
from mtlora.tables.write import write_tables


def main() -> None:
    """Parse the command line, write the files, print the Markdown."""
    description = "Make the tables of an experiment, or of all experiments, from records."
    arguments = parser("mtlora.tables", description).parse_intermixed_args()
    views = load(arguments)
    results = views[0].plan.results
    shown, absent = split_by_runs(views)
    for line in notices(views, shown):
        print(line, file=sys.stderr)
    texts = [write_tables(view, results / "tables")[0] for view in shown if view.has_results]
    if not texts:
        print(none_finished(arguments, views), file=sys.stderr)
        return
    print("\n".join(texts), end="")
    if absent:
        print(f"no table, because there are no runs: {', '.join(view.plan.name for view in absent)}", file=sys.stderr)
    print(f"written to {results / 'tables'}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
