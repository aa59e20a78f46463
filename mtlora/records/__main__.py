"""Print the schema of `record.json`, or all records of a folder.

`python -m mtlora.records schema` prints the JSON Schema, with `--markdown` the page `docs/records.md`;
`python -m mtlora.records collect RUNS` prints one record a line, as a study keeps them and `make tables RUNS=FILE` reads them.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.base.files import read_content, replacing
from mtlora.records.predictions import numbers_only
from mtlora.records.record import GEOMETRY, PREDICTIONS, RunRecord, detail, find_records

INTRODUCTION = """\
# Records

`record.json`, in the folder of a run, holds the configuration, the results and the origin of the run. This page is the output of
`python -m mtlora.records schema --markdown`; without `--markdown` the command prints the JSON Schema. The tables leave out a
record that has an unknown key, a value of another type or a metric outside its range, and they print the reason. An optional
key is absent where it does not apply, and in records that were written before the key existed.

| key | type | meaning |
| --- | --- | --- |"""


def markdown(schema: dict[str, Any]) -> str:
    """Return `docs/records.md` for the JSON Schema of a record."""
    return "\n".join([INTRODUCTION, *_rows(schema, schema["$defs"], "")])


def _rows(schema: dict[str, Any], parts: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in schema["properties"].items():
        optional = "" if name in schema.get("required", ()) else ", optional"
        item = value.get("items", value)
        part = parts[item["$ref"].rpartition("/")[2]] if "$ref" in item else {}
        meaning = " ".join(value.get("description", part.get("description")).split())
        yield f"| `{prefix}{name}` | {_type(value)}{optional} | {meaning} |"
        if part:
            yield from _rows(part, parts, f"{prefix}{name}." if item is value else f"{prefix}{name}[].")


def _type(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(map(_type, value["anyOf"]))
    if "enum" in value:
        return " or ".join(f"`{choice}`" for choice in value["enum"])
    kind = value.get("type", "object")
    return f"list of {_type(value['items'])}s" if kind == "array" else kind


def collect(runs: Path) -> Iterator[str]:
    """Yield each finished record below a runs folder as one line of JSON, in the order of their run_ids.

    Raises:
        UserError: the folder holds no record, or one that cannot be read.
    """
    records = [RunRecord.load(path) for path in find_records(runs)]
    if not records:
        raise UserError(f"{runs} holds no record: name a folder such as results/runs")
    for record in sorted(records, key=lambda record: record.run_id):
        if record.status == "success" or record.diverged:
            yield json.dumps(asdict(record), allow_nan=False)


def keep_details(runs: Path, folder: Path) -> None:
    """Write to `folder`/RUN_ID what tables and figures read besides the records: the geometry of T, and predictions as numbers.

    Texts that a model wrote are left out, because their rows hold facts and references of the data.

    Raises:
        UserError: a row of a classification or regression run has more than numbers.
    """
    for path in find_records(runs):
        record = RunRecord.load(path)
        if record.status != "success":
            continue
        contents = {}
        if (geometry := detail(path.parent, GEOMETRY)) is not None:
            contents[GEOMETRY] = read_content(geometry)
        predictions = detail(path.parent, PREDICTIONS)
        if predictions is not None and record.config["task"]["kind"] != "generation":
            contents[PREDICTIONS] = "".join(json.dumps(row) + "\n" for row in numbers_only(predictions)).encode()
        for name, content in contents.items():
            with replacing(folder / record.run_id / f"{name}.gz", "choose a writable --details") as stream:
                stream.write(gzip.compress(content, mtime=0))  # without the time: the same file each time


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
