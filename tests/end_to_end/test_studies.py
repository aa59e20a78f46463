"""The committed studies: their tables come out of their records again, on a machine without their data."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from mtlora.base.paths import REPOSITORY
from mtlora.tables.__main__ import main

STUDIES = sorted(path.parent for path in (REPOSITORY / "results" / "studies").glob("*/records.jsonl"))
NAMES = {"TASKS": "task", "METHODS": "transform", "SEEDS": "seed", "PROTOCOL": "protocol"}


def commands(study: Path) -> list[list[str]]:
    """Return the arguments of each `make tables ... RUNS=STUDY` in a study's README, as its Makefile passes them on."""
    found = []
    for line in re.findall(r"^    make tables .*RUNS=.*$", (study / "README.md").read_text(), re.MULTILINE):
        given = dict(word.split("=", 1) for word in shlex.split(line) if "=" in word)
        del given["RUNS"]
        experiment = given.pop("SUITE", "all")
        found.append([experiment, *(f"{NAMES.get(key, key)}={value}" for key, value in given.items())])
    return found


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_the_readmes_command_gives_the_committed_tables(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / study.name
    shutil.copytree(study, copy)
    shutil.rmtree(copy / "tables")
    for arguments in commands(study):
        monkeypatch.setattr("sys.argv", ["tables", *arguments, "--runs", str(copy)])
        main()
    committed = {
        file.name: file.read_bytes() for file in (study / "tables").iterdir() if file.suffix in (".md", ".csv")
    }
    assert committed
    made = {file.name: file.read_bytes() for file in (copy / "tables").iterdir() if file.name in committed}
    assert made == committed
