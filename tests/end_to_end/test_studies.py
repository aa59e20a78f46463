"""The committed studies: their tables come out of their records again, on a machine without their data."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtlora.base.errors import UserError
from mtlora.base.files import read_content
from mtlora.base.paths import REPOSITORY
from mtlora.records.predictions import numbers_only
from mtlora.report.page import report_command, training_commands
from mtlora.tables.__main__ import main
from mtlora.tables.command import load, parser, split_by_runs

STUDIES = sorted(path.parent for path in (REPOSITORY / "results" / "studies").glob("*/records.jsonl"))
TEXT = (".md", ".csv", ".jsonl", ".gz", ".yaml", ".svg", ".html")
REAL = REPOSITORY.parent / "shared" / "data"
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


def runs_of_words(path: Path, length: int = 6) -> Iterator[tuple[str, ...]]:
    """Yield every run of words of a file, in lower case; numbers and marks between them do not count."""
    words = re.findall("[a-z]+", read_content(path).decode("utf-8", errors="replace").lower())
    return zip(*(words[i:] for i in range(length)), strict=False)


def test_a_study_needs_no_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = REPOSITORY / "results" / "studies" / "2026-minilm-glue"
    copy = Path(shutil.copytree(study, tmp_path / study.name))
    shutil.rmtree(copy / "tables")
    monkeypatch.setattr("sys.argv", ["tables", "all", "--runs", str(copy)])
    main()
    committed = list((study / "tables").glob("*.csv"))
    assert committed
    for path in committed:
        assert (copy / "tables" / path.name).read_bytes() == path.read_bytes()
    assert "webnlg" not in capsys.readouterr().err


def test_a_study_of_other_seeds_names_the_command_for_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(REPOSITORY / "results" / "studies" / "2026-minilm-glue-gpu", tmp_path / "gpu")
    monkeypatch.setattr("sys.argv", ["tables", "all", "--runs", str(copy)])
    with pytest.raises(UserError):
        main()
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "python -m mtlora.tables " in line)
    monkeypatch.setattr("sys.argv", ["tables", *shlex.split(line.partition("python -m mtlora.tables ")[2])])
    main()
    assert (copy / "tables" / "glue_study_matched.csv").exists()


PILOT = "task=cola transform=lora,shim,ctcm seed=10,11"
RECIPE = "train.epochs=3 train.batch_size=32 train.warmup_ratio=0.06"  # not that of the profile


@pytest.mark.parametrize(
    ("study", "experiment", "given", "expected"),
    [
        (
            "2026-smollm2-webnlg",
            "all",
            [],
            [
                "mtlora.tune webnlg profile=study data.root=DIR tune.grid=0.5,1,2",
                "mtlora.reproduce webnlg profile=study data.root=DIR",
                "mtlora.report webnlg --runs DIR",
            ],
        ),
        (
            "2026-minilm-glue",
            "all",
            [],
            [
                "mtlora.tune glue transform=lora,shim,ctcm profile=study data.root=DIR",
                "mtlora.reproduce glue transform=lora,shim,ctcm profile=study data.root=DIR",
                "mtlora.reproduce controls profile=study data.root=DIR",
                "mtlora.reproduce init profile=study data.root=DIR",
                "mtlora.report all --runs DIR",
            ],
        ),
        (
            "2026-cola-pilot",
            "glue",
            [*PILOT.split(), *RECIPE.split()],
            [
                f"mtlora.tune glue task=cola transform=lora,shim,ctcm profile=study data.root=DIR tune.grid=0.5,1,2 {RECIPE}",
                f"mtlora.reproduce glue {PILOT} profile=study data.root=DIR {RECIPE}",
                f"mtlora.report glue {PILOT} {RECIPE} --runs DIR",
            ],
        ),
    ],
)
def test_the_report_of_a_study_names_the_commands_of_its_runs(
    study: str, experiment: str, given: list[str], expected: list[str]
) -> None:
    path = REPOSITORY / "results" / "studies" / study
    views, _ = split_by_runs(load(parser("mtlora.report", "").parse_args([experiment, *given, "--runs", str(path)])))
    found = [*training_commands(views, given), report_command(views, given, path)]
    assert [sorted(line.split()) for line in found] == [sorted(f"python -m {line}".split()) for line in expected]


def test_the_kept_predictions_are_numbers() -> None:
    kept = list((REPOSITORY / "results" / "studies").glob("*/runs/*/predictions.jsonl.gz"))
    assert kept
    assert all(list(numbers_only(path)) for path in kept)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data: {REAL} is absent")
@pytest.mark.parametrize("data", ["glue/CoLA", "glue/MRPC", "glue/RTE", "glue/STS-B", "webnlg_2017", "e2e"])
def test_the_committed_results_hold_no_text_of_the_data(data: str) -> None:
    files = [path for path in (REPOSITORY / "results" / "studies").rglob("*") if path.suffix in TEXT and path.is_file()]
    committed = {run: path for path in files for run in runs_of_words(path)}
    official = [path for path in (REAL / data).rglob("*") if path.is_file()]
    assert official
    assert [(path.name, run) for path in official for run in runs_of_words(path) if run in committed] == []
