"""The Makefile: its help, and the command lines that its variables become."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.glue_files import write, write_official

from mtlora.base.cli import path_override
from mtlora.base.paths import EXPERIMENTS, REPOSITORY
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import make_plan

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
STAMP = ".venv/.installed"


def make(*arguments: str) -> str:
    # `make test` passes its own variables and flags on to this process; they must not reach the make under test.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def dry(*arguments: str) -> list[str]:
    """The words of the one command that make would run, if .venv is there (`-o`: it counts as up to date)."""
    (line,) = make("-n", "-o", STAMP, *arguments).splitlines()
    return shlex.split(line)


def targets() -> set[str]:
    text = (REPOSITORY / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    return {*phony.split(), *experiments()} - {"$(REPRODUCE)"}


def experiments() -> set[str]:
    return {f"reproduce-{path.stem}" for path in EXPERIMENTS.glob("*.yaml")}


def test_help_lists_every_target_and_is_the_default() -> None:
    text = make("help")
    listed, _, variables = text.partition("\n\n")
    described = {line.split()[0]: line.split()[1:] for line in listed.splitlines()}
    rules = set(re.findall(r"^([a-z][a-z0-9-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(described) == targets() == rules | experiments()
    assert all(len(words) >= 3 for words in described.values())
    assert make() == text
    for name in ("TASKS", "METHODS", "SEEDS", "PROFILE", "PROTOCOL", "JOBS", "LAUNCHER", "SUITE", "RUNS"):
        assert re.search(rf"  {name}  ", variables)


def test_setup_says_what_it_does() -> None:
    first, *_ = [line for line in make("-n", "-W", "pyproject.toml", "setup").splitlines() if line.startswith("echo")]
    assert "Installing the tested packages into .venv" in first


def test_the_plain_command_runs_the_mini_profile() -> None:
    assert dry("reproduce-glue") == [".venv/bin/python", "-m", "mtlora.reproduce", "glue"]


def test_variables_become_overrides(tmp_path: Path) -> None:
    write_official(tmp_path / "my data")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        model = write(tmp_path / "snapshot" / name, "{}").parent
    words = dry(
        *("reproduce-glue", "TASKS=rte", "METHODS=lora,shim", "SEEDS=0,1", "JOBS=2", "LAUNCHER=joblib"),
        *("PROFILE=paper", f"model.path={model}", f"data.root={tmp_path}/my data", "data.source=local"),
    )
    head, rest = words[:4], words[4:]
    assert head == [".venv/bin/python", "-m", "mtlora.reproduce", "glue"]
    overrides = {
        *("profile=paper", "task=rte", "transform=lora,shim", "seed=0,1", f"model.path={model}"),
        *(f"data.root={tmp_path}/my data", "data.source=local"),
    }
    assert set(rest[:7]) == overrides
    assert rest[7:] == ["--jobs", "2", "--launcher", "joblib"]
    plan = make_plan(load_experiment("glue"), rest[:7])  # and they mean what was meant
    assert len(plan.cells) == 4
    config = plan.cells[0].config
    assert (config.model.path, config.data.root) == (str(model), f"{tmp_path}/my data")


def test_any_value_is_one_word_for_the_shell(tmp_path: Path) -> None:
    root = tmp_path / "o'neil's data, a=b (copy)"
    write_official(root)
    words = dry("plan", "SEEDS=range(0,2)", "TASKS=rte", "METHODS=lora", "data.source=local", f"data.root={root}")
    overrides = words[4:]
    assert set(overrides) == {
        *("task=rte", "transform=lora", "seed=range(0,2)", "data.source=local", f"data.root={root}")
    }
    plan = make_plan(load_experiment("glue"), [path_override(override) for override in overrides])
    assert [(cell.config.seed, cell.config.data.root) for cell in plan.cells] == [(0, str(root)), (1, str(root))]
    assert dry("tables", "RUNS=/it's here/runs")[-2:] == ["--runs", "/it's here/runs"]


@pytest.mark.parametrize(
    ("target", "module"),
    [
        ("plan", "mtlora.plan"),
        ("tables", "mtlora.tables"),
        ("report", "mtlora.report"),
        ("download", "mtlora.plan.download"),
    ],
)
def test_other_targets_take_the_same_variables(target: str, module: str) -> None:
    words = dry(target, "SUITE=glue", "PROFILE=paper", "TASKS=rte", "SEEDS=3")
    assert words == [".venv/bin/python", "-m", module, "glue", "profile=paper", "task=rte", "seed=3"]
    everything = dry(target)[3]
    assert everything == ("all" if target in ("tables", "report") else "glue")


@pytest.mark.parametrize("variable", ["TASK=rte", "seed=5", "RESULTS=there"])
def test_a_variable_that_nothing_reads_is_refused(variable: str) -> None:
    command = ["make", "-n", "reproduce-glue", variable]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert f"{variable.split('=')[0]} is not a variable of this Makefile" in ended.stderr


def test_tables_reads_other_records() -> None:
    assert dry("tables", "RUNS=old/records.jsonl")[-3:] == ["all", "--runs", "old/records.jsonl"]


@pytest.mark.parametrize("target", sorted({"test", "lint", "reproduce-glue", "plan", "tables", "download"}))
def test_every_working_target_sets_up_first(target: str) -> None:
    # With a pyproject.toml that counts as new, the installation comes before the target's own commands.
    lines = make("-n", "-W", "pyproject.toml", target).splitlines()
    install = [number for number, line in enumerate(lines) if "pip install" in line and "constraints.txt" in line]
    own = [number for number, line in enumerate(lines) if re.search(r"bin/(python -m (mtlora|pytest)|ruff|mypy)", line)]
    assert install
    assert own
    assert max(install) < min(own)
