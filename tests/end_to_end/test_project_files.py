"""Files for people outside: the workflows, the citation, the notebook."""

import ast
import itertools
import json
import re
import tomllib
from typing import Any

import pytest
import yaml

import mtlora
from mtlora.base.paths import REPOSITORY
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import make_plan

JOBS: dict[str, Any] = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
NOTEBOOK = json.loads((REPOSITORY / "docs" / "start.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_every_test_is_in_one_shard() -> None:
    *shards, others = [shard["tests"].split() for shard in JOBS["tests"]["strategy"]["matrix"]["shard"]]
    assert others[:1] + [word for word in others[1:] if word != "--ignore"] == ["tests", *itertools.chain(*shards)]
    assert all((REPOSITORY / folder).is_dir() for folder in others[2::2])


def test_the_tested_pythons_are_those_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    versions = JOBS["tests"]["strategy"]["matrix"]["python"]
    stated = [item.rpartition(" ")[2] for item in project["classifiers"] if re.search(r"Python :: 3\.\d", item)]
    assert versions == stated
    assert project["requires-python"] == f">={versions[0]}"


def test_the_citation_has_the_version_of_the_package() -> None:
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == mtlora.__version__


def test_the_notebook_is_committed_without_outputs() -> None:
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in cells] == [([], None)] * len(cells)


@pytest.mark.parametrize(("name", "runs"), [("NARROW", 4), ("REAL", 2)])
def test_the_notebook_s_overrides_compose(name: str, runs: int) -> None:
    found = [
        ast.literal_eval(match) for text in CODE for match in re.findall(rf"{name} = (\(.*?\))\n", text, re.DOTALL)
    ]
    (overrides,) = found
    assert len(make_plan(load_experiment("glue"), list(overrides)).cells) == runs
