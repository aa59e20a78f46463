"""The JSON Schema of the configuration, for editors: keys, types, choices and bounds, and the comments as descriptions."""

import ast
import inspect
import io
import tokenize
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import MISSING
from pydantic import TypeAdapter

from mtlora.config import schema
from mtlora.config.schema import AdapterConfig, ModelConfig, RunConfig, TaskConfig, TrackingConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# The folder below conf/ -> the schema of its files. A file with the line `# @package _global_` is of RunConfig instead.
GROUPS: dict[str, type] = {
    "task": TaskConfig,
    "model": ModelConfig,
    "transform": AdapterConfig,
    "rank": AdapterConfig,
    "recipe": RunConfig,
    "profile": RunConfig,
    "tracking": TrackingConfig,
}


def json_schema(group: str | None = None) -> dict[str, Any]:
    """Return the JSON Schema of a composed configuration, or of a file in `conf/GROUP/`.

    A file holds a part of a configuration: any of its keys may stand elsewhere, and it may have a list of `defaults`.
    """
    node = RunConfig if group is None else GROUPS[group]
    content = TypeAdapter(node).json_schema()
    parts = content.pop("$defs", {})
    _complete(content, node, group is None)
    for name, part in parts.items():
        _complete(part, getattr(schema, name), group is None)
    if group is not None:
        defaults = {"type": "array", "description": "Files that this one is merged with (Hydra's defaults list)."}
        content["properties"] = {"defaults": defaults, **content["properties"]}
    return {"$schema": DIALECT, **content, "$defs": parts}


def _complete(part: dict[str, Any], node: type, whole: bool) -> None:
    """Add to the schema of a dataclass, in place, what pydantic does not know: rules, comments, mandatory keys."""
    comments = _comments(node)
    part["additionalProperties"] = False
    part["description"] = inspect.cleandoc(node.__doc__ or "")
    part.pop("required", None)
    part["required"] = [f.name for f in fields(node) if f.default is MISSING] if whole else []
    for f in fields(node):
        value = part["properties"][f.name]
        value.pop("title", None)
        if value.get("default") == MISSING or is_dataclass(f.type):
            value.pop("default", None)
        if rule := f.metadata.get("rule"):
            value |= rule.limits
            if "enum" in value and "anyOf" in value:  # of a field that may be null
                value["enum"] = [*value["enum"], None]
        if comment := comments.get(f.name):
            value["description"] = comment


def _comments(node: type) -> dict[str, str]:
    """Return the comment of each field of a dataclass: behind it, or else on the lines above it."""
    source = inspect.getsource(node)
    lines = source.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    texts = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    comments: dict[str, str] = {}
    for item in body.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        first = item.lineno - 1
        while first in texts and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        above = [texts[number] for number in range(first + 1, item.lineno)]
        if text := texts.get(item.end_lineno or item.lineno) or " ".join(above):
            comments[item.target.id] = text
    return comments
