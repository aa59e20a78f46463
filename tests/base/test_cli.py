"""Mistakes on the command line and in the input of a run: one line, exit code 1, no half-written record."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.glue_files import write_official
from helpers.hub_server import HubServer
from helpers.tiny_runs import execute, overrides, start

from mtlora.base import cli
from mtlora.base.paths import REPOSITORY
from mtlora.plan.cell import compose_cell
from mtlora.records.record import RunRecord, find_records


def check_error_line(code: object, stderr: str) -> str:
    assert code == 1
    assert "Traceback" not in stderr
    (line,) = stderr.splitlines()
    assert line.startswith("error: ")
    return line


def check_records(results: Path) -> list[RunRecord]:
    """Every record is whole, none is left `running`, and no temporary file stays."""
    if not results.is_dir():
        return []
    records = [RunRecord.load(path) for path in find_records(results)]
    assert not [path for path in results.rglob("*") if path.suffix == ".tmp"]
    assert {record.status for record in records} <= {"failed", "success"}
    return records


class Mistake:
    """Runs a command in this process as the entry point would, and returns its one line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, arguments: list[str]) -> str:
        self.monkeypatch.setattr(sys, "argv", ["train", *arguments])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.run(lambda: void(execute(compose_cell(arguments))))
        return check_error_line(exit_.value.code, self.capsys.readouterr().err)


def void(value: Any) -> None:
    """Drop a value: an entry point returns nothing."""


PATHS = [
    "~/glue", "/data/run=3/glue", "/home/o'neil/glue", "/data/glue (copy)", "/tmp/日本", 'a"b', "a b", "{x}", "[x]", "{a:b}",
    "1e3", "007", "true", "back\\slash", "trailing\\", '\\"', "a#b", "a!b", "a&b;c", "*?", "$HOME", "a:b", "'one quote", "%20",
    "@x", "é",
]  # fmt: skip


@pytest.mark.parametrize("key", ["data.root", "model.path", "results"])
@pytest.mark.parametrize("path", PATHS)
def test_any_path_is_an_override(key: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    override = cli.path_override(f"{key}={path}")
    config = compose_cell(["task=cola", "model=tiny", "data.source=local", "data.root=x", override]).config
    found = {"data.root": config.data.root, "model.path": config.model.path, "results": config.results}[key]
    assert found == path.replace("~", "/home/ann")
    assert cli.path_override(override) == override  # a child process gets the arguments of its parent


def test_overrides_that_are_read_already_stay_as_they_are(tmp_path: Path) -> None:
    for override in (
        "results=a,b",
        'results="a b"',
        "results=out/${seed}",
        "data.root=null",
        "model.hub=a=b",
        "seed=1",
        "--jobs",
    ):
        assert cli.path_override(override) == override
    folder = tmp_path / "a,b"
    folder.mkdir()
    assert cli.path_override(f"results={folder}") == f'results="{folder}"'  # there is such a folder, so it is no sweep


ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]


@pytest.mark.parametrize("environment", ENCODINGS)
def test_output_in_any_encoding(environment: dict[str, str]) -> None:
    code = "from mtlora.base import cli; cli.run(lambda: print('5 \\u00b1 1 \\u2013 \\u65e5 \\ud83d'))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ | environment, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stdout.startswith(b"5 ")
    assert ended.stdout.rstrip().endswith(rb"\u65e5 \ud83d")


@pytest.mark.parametrize(
    "code", ["print('x')", "print('x' * 10 ** 6)", "print('x', flush=True)", "(print('x'), exit(0))"]
)
def test_output_that_cannot_be_written_is_no_traceback(code: str) -> None:
    command = [sys.executable, "-c", f"from mtlora.base import cli; cli.run(lambda: {code})"]
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` leaves it when it has ended
    with os.fdopen(writing, "wb") as closed, open("/dev/full", "wb") as full:
        for stream, status in ((closed, 141), (full, 1)):
            ended = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
            assert ended.returncode == status
            assert "Traceback" not in ended.stderr
            assert "Exception ignored" not in ended.stderr
    assert ended.stderr == "error: cannot write the output (No space left on device): redirect it to another place\n"


@pytest.fixture
def mistake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mistake:
    return Mistake(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("task=nothing", ["task=nothing is not known", "mnli, mrpc"]),
        ("model=huge", ["model=huge is not known", "roberta_base"]),
        ("transform=abc", ["transform=abc is not known", "ctcm, ctcm_frozen, dora, dtsm"]),
        ("rank=r3", ["rank=r3 is not known", "r16"]),
        ("profile=big", ["profile=big is not known", "mini, paper"]),
        ("recipe=tiny/nothing", ["no recipe", "conf/recipe/tiny/nothing.yaml"]),
        ("train.lr=1", ["train.lr is not a known key or group (did you mean train.learning_rate?)"]),
        ("+train.lr=1", ["train.lr is not a known key or group (did you mean train.learning_rate?)"]),
        ("trian.epochs=1", ["trian.epochs is not a known key or group (did you mean train.epochs?)"]),
        ("train.alpha=1", ["(did you mean adapter.alpha?)"]),
        ("batchsize=1", ["(did you mean train.batch_size or decode.batch_size?)"]),
        ("trian.batch_size=1", ["(did you mean train.batch_size?)"]),
        ("train.warmup=1", ["(did you mean train.warmup_ratio or train.warmup_steps?)"]),
        ("methods=shim", ["(did you mean transform?)"]),
        ("hydra.swep.dir=out", ["(did you mean hydra.sweep.dir?)"]),
        ("hydra/lancher=ray", ["(did you mean hydra/launcher?)"]),
        ("hydra.launcher.no_such_key=1", ["is not a known key or group: check the spelling"]),
        ("+extra=1", ["extra is not a known key"]),
        ("train.epochs=two", ["train.epochs=two", "two is not a whole number"]),
        ("seed=abc", ["error: seed=abc: abc is not a whole number"]),
        ("seed=null", ["seed=null"]),
        ("train.learning_rate=fast", ["train.learning_rate=fast", "is not a number"]),
        ("train.epoch=1", ["train.epoch is not a known key", "did you mean train.epochs?"]),
        ("+train.epoch=1", ["train.epoch is not a known key", "did you mean train.epochs?"]),
        ("trasnform=shim", ["trasnform is not a known key or group (did you mean transform?)"]),
        ("task=rtee", ["task=rtee is not known: choose one of cola", "(did you mean rte?)"]),
        ("METHODS=shim", ["METHODS is a variable of make", "it is transform="]),
        ("tune.grid=1", ["tune.grid belongs to `python -m mtlora.tune`"]),
        ("train=3", ["train=3"]),
        ("rank=0", ["rank=0", "rank=r8"]),
        ("rank=8", ["rank=8", "rank=r8"]),
        ("adapter.r=0", ["adapter.r=0", "at least 1"]),
        ("adapter.r=-2", ["adapter.r=-2", "at least 1"]),
        ("adapter.r=2.5", ["adapter.r=2.5"]),
        ("adapter.dropout=1", ["adapter.dropout=1", "below 1"]),
        ("adapter.structure=foo", ["adapter.structure=foo", "shim"]),
        ("adapter.init_weights=zero_t", ["adapter.init_weights=zero_t", "lora"]),
        ("train.learning_rate=0", ["train.learning_rate=0", "above 0"]),
        ("train.learning_rate=nan", ["train.learning_rate=nan", "above 0"]),
        ("train.epochs=0", ["train.epochs=0", "at least 1"]),
        ("data.order=sorted", ["data.order=sorted", "length, random"]),
        ("targets=most", ["targets=most", "qv, official, all"]),
        ("init_from=cola", ["init_from=cola", "the task itself"]),
        ("init_from=nothing", ["task=nothing is not known"]),
        ("data.source=local", ["data.root=DIR", "CoLA/train.tsv", "CoLA/dev.tsv"]),
        ("data.root=/some/where", ["data.root=/some/where", "add data.source=local"]),
        ("task.metrics.validation=[accuray]", ["accuray is not known", "accuracy, f1", "(did you mean accuracy?)"]),
        ("model.source=hub", ["model tiny has source: hub", "needs hub and revision", "conf/model/tiny.yaml"]),
        ("decode.beams=0", ["decode.beams=0", "at least 1"]),
        ("task=rte,mrpc", ["error: task=rte,mrpc names several values, which is a sweep: add -m"]),
        ("task=rte,", ["error: task=rte,: a comma too many: write task=rte"]),
        ("model=roberta", ["(did you mean roberta_base or roberta_large?)"]),
        ("task=RTE", ["(did you mean rte?)"]),
        ("seed=1-5", ["1-5 is not a whole number (several: seed=0,1 or 'seed=range(0,5)')"]),
        ("task=(", ["task=("]),
    ],
)
def test_mistakes_found_before_anything_runs(override: str, parts: list[str], mistake: Mistake, tmp_path: Path) -> None:
    line = mistake([*overrides(tmp_path), override])
    for part in parts:
        assert part in line, line
    assert list(tmp_path.iterdir()) == []


def test_targets_that_match_nothing(mistake: Mistake, tmp_path: Path) -> None:
    line = mistake([*overrides(tmp_path), "model.target_sets.qv.modules=nothing_here"])
    assert "targets=qv" in line
    assert "nothing_here" in line
    (record,) = check_records(tmp_path)
    assert record.error is not None
    assert record.error in line


def test_missing_data_files(mistake: Mistake, tmp_path: Path) -> None:
    results, root = tmp_path / "results", write_official(tmp_path / "glue")
    (root / "CoLA/train.tsv").unlink()
    local = [*overrides(results), "data.source=local"]
    line = mistake([*local, f"data.root={root}"])
    assert "CoLA/train.tsv" in line
    assert str(root) in line
    assert "is not a folder" in mistake([*local, f"data.root={root / 'nowhere'}"])
    assert not results.exists()


def test_broken_row_names_its_place(mistake: Mistake, tmp_path: Path) -> None:
    results, root = tmp_path / "results", write_official(tmp_path / "glue")
    with (root / "CoLA/train.tsv").open("a") as stream:
        stream.write("aa05\t7\t\tDogs sleep.\n")
    line = mistake([*overrides(results), "data.source=local", f"data.root={root}"])
    assert "CoLA/train.tsv:3: label '7' is unknown" in line
    assert [record.status for record in check_records(results)] == ["failed"]


def test_hub_without_network(mistake: Mistake, tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    line = mistake([*overrides(tmp_path), "data.source=hub"])
    assert "nyu-mll/glue" in line
    assert "check the network" in line
    line = mistake([*overrides(tmp_path), "model=roberta_base", "data.source=builtin"])
    assert "roberta-base" in line
    assert "model.path=DIR" in line
    assert [record.status for record in check_records(tmp_path)] == ["failed"] * 2


def test_results_that_is_a_file(mistake: Mistake, tmp_path: Path) -> None:
    file = tmp_path / "results"
    file.write_text("mine")
    assert str(file) in (line := mistake(overrides(file)))
    assert "results=DIR" in line
    assert file.read_text() == "mine"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_missing_device(mistake: Mistake, tmp_path: Path) -> None:
    assert "compute.device=cuda: this PyTorch sees no CUDA device" in mistake(
        [*overrides(tmp_path), "compute.device=cuda"]
    )


def test_interruption_and_bugs_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    def bug() -> None:
        raise ValueError("not the user's mistake")

    with pytest.raises(SystemExit) as exit_:
        cli.run(interrupted)
    assert exit_.value.code == 130
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ValueError, match="not the user's mistake"):
        cli.run(bug)


def test_a_wrong_argument_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli.experiment_parser("mtlora.reproduce", "")
    parser.add_argument("--jobs", type=cli.jobs)
    for value in ("x", "0", "1.5"):
        with pytest.raises(SystemExit) as exit_:
            cli.run(lambda value=value: print(parser.parse_intermixed_args(["glue", "--jobs", value])))  # type: ignore[misc]
        line = check_error_line(exit_.value.code, capsys.readouterr().err)
        assert f"error: --jobs {value}: it must be" in line


@pytest.mark.parametrize(
    ("module", "arguments", "part"),
    [
        ("reproduce", ["gleu"], "webnlg (did you mean glue?)"),
        (
            "reproduce",
            ["glue", "data.split=tune", "protocol=nothing"],
            "data.split=tune belongs to `python -m mtlora.tune glue`",
        ),
        ("reproduce", ["glue", "--launcher", "lokal"], "error: --launcher lokal is not known"),
        ("tables.__main__", ["glue", "--runs", "/nowhere"], "error: --runs /nowhere: there is no"),
        ("plan.__main__", [], "error: EXPERIMENT is missing: one of controls, dart, deberta, e2e, glue, init, rank"),
        ("tables.__main__", [], "error: EXPERIMENT is missing: one of all, controls, dart"),
        ("publish.__main__", ["--out", "new"], "error: SOURCE is missing: the folder of a finished run, or of a study"),
        ("publish.__main__", [], "error: SOURCE is missing: the folder of a finished run, or of a study"),
        ("publish.__main__", ["runs/one"], "error: --out is missing: the folder to write"),
        ("records.__main__", [], "error: COMMAND is missing: one of schema, collect"),
        ("score.__main__", [], "error: TASK is missing: one of dart, webnlg, e2e"),
        ("score.__main__", ["webnlg", "no.txt"], "no.txt (No such file or directory): correct the path"),
        ("reproduce", ["glue", "--jbos", "2"], "error: --jbos is not an option (did you mean --jobs?)"),
    ],
)
def test_mistakes_of_commands_about_experiments(
    module: str, arguments: list[str], part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.run(importlib.import_module(f"mtlora.{module}").main)
    assert part in check_error_line(exit_.value.code, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("module", "arguments", "part"),
    [
        (
            "reproduce",
            ["glue", "seed=1-5"],
            "error: SEEDS=1-5: 1-5 is not a whole number (several: SEEDS=0,1 or 'SEEDS=range(0,5)')",
        ),
        ("reproduce", ["glue", "task=rtee"], "error: TASKS=rtee: experiment glue has no such task"),
        ("reproduce", ["glue", "task=rte,"], "error: TASKS=rte,: a comma too many: write TASKS=rte"),
        ("reproduce", ["glue", "transform=shimm"], "error: METHODS=shimm is not known: choose one of"),
        ("reproduce", ["glue", "profile=Paper"], "error: PROFILE=Paper is not part of experiment glue"),
        ("reproduce", ["glue", "protocol=equal"], "error: PROTOCOL=equal is not known"),
        ("reproduce", ["glue", "--jobs", "0"], "error: JOBS=0: it must be"),
        ("reproduce", ["glue", "--launcher", "lokal"], "error: LAUNCHER=lokal is not known"),
        ("reproduce", ["glue", "data.split=tune"], "belongs to `make tune SUITE=glue`"),
        ("reproduce", ["glue", "protocol=tuned"], "run `make tune` for the same experiment and profile"),
        ("tables.__main__", ["glue", "--runs", "/nowhere"], "error: RUNS=/nowhere: there is no"),
        ("tables.__main__", ["deberta"], "error: PROFILE=mini is not part of experiment deberta: choose one of paper"),
    ],
)
def test_who_typed_make_reads_its_variables_and_targets(
    module: str,
    arguments: list[str],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MTLORA_BY_MAKE", "1")
    monkeypatch.setattr(sys, "argv", [module, *arguments, f"results={tmp_path}"])
    with pytest.raises(SystemExit) as exit_:
        cli.run(importlib.import_module(f"mtlora.{module}").main)
    assert part in check_error_line(exit_.value.code, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["task=nothing"], "task=nothing is not known"),
        (["rank=0"], "rank=0"),
        (["model.target_sets.qv.modules=nothing_here"], "nothing_here"),
    ],
)
def test_real_command(more: list[str], part: str, tmp_path: Path) -> None:
    process = start([*overrides(tmp_path), *more])
    _, stderr = process.communicate(timeout=120)
    assert part in check_error_line(process.returncode, stderr)
    check_records(tmp_path)


def test_a_failing_job_does_not_stop_a_sweep(tmp_path: Path) -> None:
    arguments = [*overrides(tmp_path, "train.epochs=1"), "adapter.r=2,0,4"]
    process = start(["-m", *arguments])
    _, stderr = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "Traceback" not in stderr
    listed, error = stderr.splitlines()[-2:]
    assert listed.startswith("not done: ")
    assert " adapter.r=0: adapter.r=0 is out of range" in listed
    assert error.startswith("error: 1 of 3 runs failed (listed above)")
    records = check_records(tmp_path)
    assert [(record.rank, record.status) for record in records] == [(2, "success"), (4, "success")]
    assert "adapter.r=2" in records[0].overrides, "the overrides of the job, not of the sweep"
    assert not (REPOSITORY / "multirun").exists(), "Hydra's own folders are not made"
