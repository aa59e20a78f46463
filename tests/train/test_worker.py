"""The child process in which the jobs of a sweep train: what kills it is one failed run, and signals reach it once."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import ClassVar

import pytest
from helpers.tiny_runs import cell_in, execute, overrides, record_of

from mtlora.base.errors import UserError
from mtlora.base.files import is_held, only_process
from mtlora.base.paths import REPOSITORY
from mtlora.plan.cell import Cell
from mtlora.records.record import record_status
from mtlora.train import worker
from mtlora.train.outcome import Outcome, Status
from mtlora.train.state import CHECKPOINT

LONG = ("train.epochs=2000", "train.checkpoint_seconds=1000")


pytestmark = pytest.mark.xdist_group("worker")  # its tests share the warm child, which takes seconds to start


@pytest.fixture(autouse=True, scope="module")
def no_child_left() -> "object":
    yield
    if worker._child is not None:
        worker._child.end()
        worker._child = None


def wait_until_running(cell: Cell, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not (cell.folder / "metrics.jsonl").exists():  # written at the end of the first epoch
        assert time.monotonic() < deadline, "the run has not begun"
        time.sleep(0.02)


def wait_until_free(cell: Cell, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while is_held(cell.lock):
        assert time.monotonic() < deadline, "the run has not ended"
        time.sleep(0.02)


def test_one_child_trains_job_after_job(tmp_path: Path) -> None:
    cells = [cell_in(tmp_path, "train.epochs=1", f"seed={seed}") for seed in range(2)]
    first = worker.train_in_child(cells[0])
    assert worker._child is not None
    number = worker._child.process.pid
    second = worker.train_in_child(cells[1])
    assert first is not None
    assert second is not None
    assert (first.run_id, second.run_id) == tuple(cell.run_id for cell in cells)
    assert worker._child.process.pid == number != os.getpid()
    alone = cell_in(tmp_path / "alone", "train.epochs=1", "seed=1")
    assert execute(alone).metrics == second.metrics


def test_a_failed_run_is_raised_and_the_next_gets_a_new_child(tmp_path: Path) -> None:
    broken = cell_in(tmp_path, "train.learning_rate=1e30")
    with pytest.raises(UserError, match=f"{broken.run_id} failed: the training loss is (nan|inf)"):
        worker.train_in_child(broken)
    assert record_of(broken).status == "failed"
    assert worker._child is None
    record = worker.train_in_child(cell_in(tmp_path, "train.epochs=1"))
    assert record is not None
    assert record.status == "success"


def test_a_killed_child_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell_in(tmp_path, *LONG)
    child = worker.Child()
    monkeypatch.setattr(worker, "_child", child)
    killer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys, time\n"
            "while not os.path.exists(sys.argv[2]): time.sleep(0.02)\n"
            "os.kill(int(sys.argv[1]), 9)",
            str(child.process.pid),
            str(cell.folder / "metrics.jsonl"),
        ]
    )
    with pytest.raises(UserError, match=f"{cell.run_id} failed: its process was killed by SIGKILL"):
        worker.train_in_child(cell)
    assert killer.wait() == 0
    record = record_of(cell)
    assert (record.status, record.error) == (
        "failed",
        "its process was killed by SIGKILL (by a user, or by the system because memory ran out)",
    )
    assert record.provenance["ended"] >= record.provenance["started"]


def test_a_dead_process_does_not_speak_for_a_run_begun_anew(tmp_path: Path) -> None:
    cell = cell_in(tmp_path, "train.epochs=1")
    execute(cell)
    worker.record_death(cell, "killed by SIGSEGV")
    assert record_of(cell).status == "success"
    record = record_of(cell)
    record.status = "running"
    record.save(cell.folder)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from mtlora.base.files import only_process\n"
            "with only_process(Path(sys.argv[1]), 'busy'): print('held', flush=True); sys.stdin.read()",
            str(cell.lock),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        worker.record_death(cell, "killed by SIGSEGV")
        assert record_of(cell).status == "running"
        holder.kill()


def test_a_cell_of_another_process_is_left_to_it(tmp_path: Path) -> None:
    cell = cell_in(tmp_path)
    with only_process(cell.lock, "held by this test"):
        assert worker.train_in_child(cell) is None
    assert record_status(cell.folder) is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("launcher", [None, "local", "cohort"])
def test_signals_leave_a_checkpoint_and_an_interrupted_record(
    number: int, code: int, launcher: str | None, tmp_path: Path
) -> None:
    cells = [cell_in(tmp_path, *LONG, f"seed={seed}") for seed in ([0] if launcher is None else [0, 1])]
    sweep = [] if launcher is None else ["-m", f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2"]
    sweep += ["hydra.launcher.n_jobs=1"] if launcher == "cohort" else []
    process = start_sweep(*sweep, *overrides(tmp_path, *LONG, f"seed={','.join(str(c.config.seed) for c in cells)}"))
    for cell in cells:
        wait_until_running(cell)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert "run the same command again to continue" in stderr
    for cell in cells:
        record = record_of(cell)
        assert record.status == "interrupted"
        assert record.error == ("stopped by Ctrl-C" if number == signal.SIGINT else "stopped by SIGTERM")
        assert record.provenance["argv"][-1] == process.args[-1]  # type: ignore[index]
        assert (cell.folder / CHECKPOINT).exists()
        assert not is_held(cell.lock)


def start_sweep(*arguments: str) -> "subprocess.Popen[str]":
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    command = [sys.executable, "-m", "mtlora.train", *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_joblib_is_left_behind(number: int, tmp_path: Path) -> None:
    cells = [cell_in(tmp_path, *LONG, f"seed={seed}") for seed in (0, 1)]
    process = start_sweep(
        "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *overrides(tmp_path, *LONG, "seed=0,1")
    )
    for cell in cells:
        wait_until_running(cell)
    process.send_signal(number)
    process.wait(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    for cell in cells:
        wait_until_free(cell)


def test_a_dead_idle_child_is_replaced(tmp_path: Path) -> None:
    worker.train_in_child(cell_in(tmp_path, "train.epochs=1"))
    assert worker._child is not None
    worker._child.process.kill()
    worker._child.process.wait()
    record = worker.train_in_child(cell_in(tmp_path, "train.epochs=1", "seed=1"))
    assert record is not None
    assert record.status == "success"


def test_a_child_stops_when_its_parent_is_killed(tmp_path: Path) -> None:
    cell = cell_in(tmp_path, *LONG)
    command = [sys.executable, "-m", "mtlora.train", "-m", *overrides(tmp_path, *LONG)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    wait_until_running(cell)
    assert is_held(cell.lock)
    process.kill()
    process.wait()
    wait_until_free(cell)
    assert record_of(cell).status == "interrupted"
    assert (cell.folder / CHECKPOINT).exists()


class FakeChild:
    """Answers at once, and remembers with which GPU it was started."""

    started: ClassVar[list[tuple[int | None, str | None]]] = []

    def __init__(self, threads: int | None = None, gpu: str | None = None) -> None:
        self.gpu, self.runs = gpu, 0
        self.connection, self.theirs = Pipe()
        self.started.append((threads, gpu))

    def send(self, cells: Sequence[Cell]) -> None:
        self.outcomes = [Outcome(Status.FAILED, reason="on purpose")] * len(cells)  # so it is replaced
        self.theirs.send(None)

    def receive(self) -> list[Outcome]:
        return self.outcomes

    def is_dead(self) -> bool:
        return False

    def end(self) -> str:
        return "ended"


@pytest.mark.parametrize(
    ("gpus", "children", "expected"),
    [
        (["0", "1"], 2, {"0": 3, "1": 3}),
        (["3", "5", "7"], 3, {"3": 2, "5": 2, "7": 2}),
        (["0", "1"], 1, {None: 6}),  # one child sees what its parent sees
        ([], 2, {None: 6}),
    ],
)
def test_children_are_spread_over_the_gpus(
    gpus: list[str], children: int, expected: dict[str | None, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "Child", FakeChild)
    monkeypatch.setattr(worker, "visible_gpus", lambda: gpus)
    FakeChild.started = []
    cells = [cell_in(tmp_path, f"seed={seed}") for seed in range(6)]
    # all connections of the busy children are ready, so they are replaced in turns
    worker.train_in_children([[cell] for cell in cells], children, None, lambda cell, outcome: None)
    assert Counter(gpu for _, gpu in FakeChild.started) == expected


def test_a_child_without_work_ends_while_others_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []

    class SlowChild(FakeChild):
        def send(self, cells: Sequence[Cell]) -> None:
            self.outcomes = [Outcome(Status.DONE)]
            Timer(0.3 * cells[0].config.seed, self.theirs.send, [None]).start()

        def end(self) -> str:
            events.append("ended")
            return super().end()

    monkeypatch.setattr(worker, "Child", SlowChild)
    monkeypatch.setattr(worker, "visible_gpus", list)
    cells = [cell_in(tmp_path, f"seed={seed}") for seed in range(2)]
    worker.train_in_children([[cell] for cell in cells], 2, None, lambda cell, _: events.append(cell.run_id))
    assert events == [cells[0].run_id, "ended", cells[1].run_id, "ended"]


def test_a_child_sees_only_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(worker.subprocess, "Popen", lambda *_, env, **__: seen.append(env))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    for gpu in (None, "6"):
        worker.Child(gpu=gpu).connection.close()
    assert [env["CUDA_VISIBLE_DEVICES"] for env in seen] == ["4,6", "6"]


def test_the_processes_of_joblib_are_spread_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "visible_gpus", lambda: ["0", "1"])
    assert worker._gpu_of_loky() is None
    found = []
    for number in (1, 2):
        monkeypatch.setattr(worker, "current_process", lambda n=number: SimpleNamespace(name=f"LokyProcess-{n}"))
        found.append(worker._gpu_of_loky())
    assert sorted(found) == ["0", "1"]
