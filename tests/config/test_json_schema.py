"""The JSON Schema for editors accepts what the configuration accepts and refuses what it refuses."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from mtlora.base.paths import CONF
from mtlora.config.json_schema import GROUPS, json_schema
from mtlora.plan.cell import compose_cell

jsonschema = pytest.importorskip("jsonschema", reason="the package jsonschema, of the extra dev, is not installed")

FILES = sorted(path for group in GROUPS for path in (CONF / group).rglob("*.yaml"))
CELL = ["task=rte", "model=minilm", "transform=shim", "rank=r8", "seed=0"]


def errors(content: Any, group: str | None = None) -> list[str]:
    schema = json_schema(group)
    jsonschema.Draft202012Validator.check_schema(schema)
    return [error.json_path for error in jsonschema.Draft202012Validator(schema).iter_errors(content)]


def read(path: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(path), resolve=False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_shipped_file_is_valid(path: Path) -> None:
    whole = path.read_text().startswith("# @package _global_")
    assert errors(read(path), "profile" if whole else path.relative_to(CONF).parts[0]) == []


def test_a_composed_configuration_is_valid() -> None:
    assert errors(json.loads(json.dumps(asdict(compose_cell(CELL).config)))) == []


# Each pair is one mistake: as an override, which composing refuses, and as a change of a composed configuration.
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.epochs", 0),
        ("train.epochs", "many"),
        ("train.learning_rate", 0.0),
        ("train.warmup_ratio", 1.0),
        ("train.max_grad_norm", -0.5),
        ("adapter.init_weights", "zeros"),
        ("data.source", "disk"),
        ("decode.beams", 1.5),
        ("train.no_such_key", 1),
    ],
)
def test_what_composing_refuses_is_invalid(key: str, value: Any) -> None:
    config = OmegaConf.create(asdict(compose_cell(CELL).config))
    OmegaConf.update(config, key, value, force_add=True)
    assert errors(OmegaConf.to_container(config))
    with pytest.raises(HydraException):
        compose_cell([*CELL, f"{key}={value}"])


def test_a_wrong_file_names_the_place() -> None:
    task = read(CONF / "task" / "rte.yaml")
    task["local"]["train"][0]["colums"] = {}
    task["kind"] = "regresion"
    assert errors(task, "task") == ["$.kind", "$.local.train[0]"]
    assert errors({"transform": "shim"}, "transform") == ["$"]


def test_a_whole_configuration_needs_the_mandatory_keys_and_a_file_does_not() -> None:
    config = asdict(compose_cell(CELL).config)
    del config["train"]["learning_rate"]
    assert errors(config) == ["$.train"]
    assert errors({"train": {"epochs": 3}}, "recipe") == []


def test_comments_are_descriptions() -> None:
    schema = json_schema()
    train, task = (schema["$defs"][name]["properties"] for name in ("TrainConfig", "TaskConfig"))
    assert train["batch_size"]["description"] == "examples per batch"  # behind the field
    assert train["limit_examples"]["description"] == (  # above it
        "train on n examples only, the same for every seed and method; evaluation uses all"
    )
    assert task["metrics"]["description"].startswith("Evaluation split -> metric names; ")  # two lines above it
    splits = schema["$defs"]["HubSource"]["properties"]["splits"]["description"]
    assert splits.startswith("our name of a split")  # behind a field of several lines
    assert "description" not in train["epochs"]
    assert schema["$defs"]["TrainConfig"]["description"].startswith("The training recipe")
