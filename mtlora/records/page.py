"""The page `docs/records.md`: the keys of a record, from its JSON Schema."""

from collections.abc import Iterator
from typing import Any

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
