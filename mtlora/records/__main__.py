"""Print the schema of `record.json`: `python -m mtlora.records schema` as JSON Schema, with `--markdown` as `docs/records.md`."""

import json
from collections.abc import Iterator
from typing import Any

from mtlora.base import cli
from mtlora.records.record import RunRecord

INTRODUCTION = """\
# Records

`record.json`, in the folder of a run, holds everything that is known about the run. This page is the output of
`python -m mtlora.records schema --markdown`; without `--markdown` the command prints the JSON Schema. The tables leave out a
record that has an unknown key, a value of another type or a metric outside its range, and they print the reason. An optional
key is absent where it does not apply, and from the records of runs that are older than the key.

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
        meaning = value.get("description", part.get("description"))
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


def main() -> None:
    """Print the schema."""
    parser = cli.Parser(prog="python -m mtlora.records", description="Print the schema of record.json.")
    parser.add_argument("command", choices=["schema"])
    parser.add_argument("--markdown", action="store_true", help="print a table of the keys instead of the JSON Schema")
    arguments = parser.parse_args()
    schema = RunRecord.json_schema()
    print(markdown(schema) if arguments.markdown else json.dumps(schema, indent=1))


if __name__ == "__main__":
    cli.run(main)
