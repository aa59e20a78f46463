"""Print the schema of `record.json`, or all records of a folder: `python -m mtlora.records schema|collect RUNS`.

`schema` prints the JSON Schema, with `--markdown` the page `docs/records.md`;
`collect RUNS` prints one record a line, as a study keeps them and `make tables RUNS=FILE` reads them.
"""

import json
from pathlib import Path

from mtlora.base import cli
from mtlora.records.collect import collect, keep_details
from mtlora.records.page import markdown
from mtlora.records.record import RunRecord


def main() -> None:
    """Print the schema or the records."""
    parser = cli.Parser(prog="python -m mtlora.records", description="Print the schema of record.json, or all records.")
    commands = parser.add_subparsers(dest="command", required=True)
    schema = commands.add_parser("schema", help="print the JSON Schema of a record")
    schema.add_argument("--markdown", action="store_true", help="print a table of the keys instead of the JSON Schema")
    collector = commands.add_parser("collect", help="print the finished records of a folder, one a line")
    collector.add_argument("runs", type=Path, help="a runs folder, such as results/runs")
    collector.add_argument(
        "--details", type=Path, metavar="DIR", help="also keep the geometry of T and the predictions there, compressed"
    )
    arguments = parser.parse_args()
    if arguments.command == "collect":
        if arguments.details is not None:
            keep_details(arguments.runs, arguments.details)
        for line in collect(arguments.runs):
            print(line)
        return
    content = RunRecord.json_schema()
    print(markdown(content) if arguments.markdown else json.dumps(content, indent=1))


if __name__ == "__main__":
    cli.run(main)
