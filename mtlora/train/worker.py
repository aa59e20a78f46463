"""Child processes that train the runs of a sweep, so that a crash or a kill fails one run and does not end the sweep.

A child trains one job of its parent after another, so it loads imports, tokenizer, backbone and data only once. It is replaced
when it has ended, after a failed run (which may leave it in a bad state), and after `RUNS_PER_CHILD` runs.

`train_in_child` and `train_in_children` run in the parent, `main` in the child.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe, current_process
from multiprocessing.connection import Connection, wait

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.base.files import only_process
from mtlora.base.gpus import visible_gpus
from mtlora.base.interrupt import handle_signals, ignore_signals
from mtlora.plan.cell import Cell
from mtlora.records.provenance import now
from mtlora.records.record import RECORD, RunRecord
from mtlora.train.cohort.grouping import halves
from mtlora.train.outcome import Outcome, Status

RUNS_PER_CHILD = 50  # because oneDNN keeps memory for every new shape of a product
SECONDS_TO_SAVE = 60.0  # an interrupted child finishes its step and writes a checkpoint


class Child:
    """A process that trains cells, one at a time or several together."""

    def __init__(self, threads: int | None = None, gpu: str | None = None) -> None:
        """Start the process.

        Args:
            threads: the number of its threads; None is `cpu.threads_allowed`.
            gpu: the only GPU that it sees; None hides none.
        """
        self.gpu = gpu
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        self.connection, theirs = Pipe()
        with theirs:
            # Not with -m: pickled objects must refer to mtlora.train.worker, not to __main__.
            command = [
                sys.executable,
                "-c",
                "from mtlora.train.worker import main; main()",
                str(theirs.fileno()),
                *sys.argv[1:],
            ]
            # In a session of its own, the child gets a terminal's Ctrl-C only once, from this process. The end of its standard
            # input tells it that this process has ended.
            self.process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,
                start_new_session=True,
                env=environment | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}),
            )
        self.runs = 0

    def send(self, cells: Sequence[Cell]) -> None:
        """Send cells to be trained together."""
        self.runs += len(cells)
        with suppress(OSError):  # the child has died, so `receive` returns None
            self.connection.send(tuple(cells))

    def receive(self) -> list[Outcome] | None:
        """Wait for the child, and return an outcome for each cell; None if the process has died."""
        with suppress(EOFError, OSError):
            outcomes = self.connection.recv()
            assert isinstance(outcomes, list)
            return outcomes
        return None

    def is_dead(self) -> bool:
        """Tell whether the process has ended by itself, for example by a kill while it waited for work."""
        return self.process.poll() is not None

    def end(self, patience: float = 1.0) -> str:
        """End the process, and return in words how it ended; one that waits for work gets `patience` seconds to exit."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        self.process.kill()
        code = self.process.wait()
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        if code != -signal.SIGKILL:
            return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return "killed by SIGKILL (by a user, or by the system because memory ran out)"


@contextmanager
def passing_signals(children: Sequence[Child]) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on to the children, and let them save before the exception continues here.

    Args:
        children: the list may change while the block runs.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        ignore_signals()  # schedulers send several signals; only the first one counts
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        until = time.monotonic() + SECONDS_TO_SAVE
        for child in children:
            child.process.send_signal(number)
            child.connection.close()  # a child that has just replied must not wait for more work
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, until - time.monotonic()))
            child.end()
        raise


_child: Child | None = None


def train_in_child(cell: Cell) -> RunRecord | None:
    """Train a cell in the child of this process; return None if another process is training it.

    Raises:
        UserError: the run failed; its record has the same reason.
    """
    global _child
    _end_with_loky()
    if _child is None or _child.runs >= RUNS_PER_CHILD or _child.is_dead():
        if _child is not None:
            _child.end()
        _child = Child(gpu=_gpu_of_loky())
    child, _child = _child, None  # kept only after success
    with passing_signals([child]):
        child.send([cell])
        outcomes = child.receive()
    outcome = outcomes[0] if outcomes else Outcome(Status.FAILED, reason=record_death(cell, child.end()))
    if outcome.status == Status.FAILED:
        child.end()
        raise UserError(outcome.reason)
    _child = child
    return outcome.record


def train_in_children(
    cohorts: Sequence[list[Cell]], children: int, threads: int | None, on_outcome: Callable[[Cell, Outcome], None]
) -> None:
    """Train cohorts of cells in several children at a time; a cohort whose child dies is resumed as two halves.

    Args:
        cohorts: each is trained together.
        children: the number of children at a time.
        threads: the number of threads of each child; None is `cpu.threads_allowed`.
        on_outcome: called once for each cell.
    """
    waiting, idle = deque(cohorts), list[Child]()
    gpus = visible_gpus() if children > 1 else []
    busy: dict[Connection, tuple[Child, list[Cell]]] = {}
    alive: list[Child] = []
    with passing_signals(alive):
        while waiting or busy:
            while waiting and len(busy) < children:
                if idle and idle[-1].is_dead():
                    alive.remove(idle[-1])
                    idle.pop().end()
                if not idle:
                    in_use = [child.gpu for child in alive]
                    idle.append(Child(threads, min(gpus, key=in_use.count, default=None)))
                    alive.append(idle[-1])
                child = idle.pop()
                busy[child.connection] = (child, waiting.popleft())
                child.send(busy[child.connection][1])
            for connection in wait(list(busy)):
                child, cells = busy.pop(connection)  # type: ignore[call-overload]  # only connections are waited for
                outcomes = child.receive() or [Outcome(Status.RETRY)] * len(cells)
                again = [cell for cell, outcome in zip(cells, outcomes, strict=True) if outcome.status == Status.RETRY]
                if (
                    again
                    or child.runs >= RUNS_PER_CHILD
                    or any(outcome.status == Status.FAILED for outcome in outcomes)
                ):
                    alive.remove(child)
                    how = child.end()
                else:
                    idle.append(child)
                if len(again) == len(cells) == 1:
                    outcomes, again = [Outcome(Status.FAILED, reason=record_death(cells[0], how))], []
                waiting.extendleft(halves(again) if len(again) > 1 else [again] if again else [])
                for cell, outcome in zip(cells, outcomes, strict=True):
                    if outcome.status != Status.RETRY:
                        on_outcome(cell, outcome)
            while idle and not waiting:  # the memory of a process that has ended is free for the others
                alive.remove(idle[-1])
                idle.pop().end()


def _end_with_loky() -> None:
    """In a process of joblib, exit when the sweep's process is gone, because joblib would leave its processes running."""
    if not current_process().name.startswith("Loky") or any(t.name == "end-with-loky" for t in threading.enumerate()):
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)  # the child then saves and ends, too

    threading.Thread(target=watch, daemon=True, name="end-with-loky").start()


def _gpu_of_loky() -> str | None:
    """Return the GPU of this process of joblib, which numbers its processes; None in another process or without GPUs."""
    number = current_process().name.partition("LokyProcess-")[2]
    gpus = visible_gpus() if number.isdigit() else []
    return gpus[(int(number) - 1) % len(gpus)] if gpus else None


def record_death(cell: Cell, how: str) -> str:
    """Mark the run of a dead process as failed, unless another process trains it again; return the reason."""
    reason = f"its process was {how}"
    with suppress(UserError, OSError, ValueError), only_process(cell.lock, cell.run_id):
        record = RunRecord.load(cell.folder / RECORD)
        if record.status == "running":
            record.status, record.error = "failed", reason
            record.provenance["ended"] = now()
            record.save(cell.folder)
    return f"{cell.run_id} failed: {reason}"


def serve(connection: Connection) -> None:
    """Train the cells that arrive on a connection until it is closed."""
    from mtlora.train.execution import execute  # imports torch and transformers, which the parent does not need

    training = threading.Event()
    threading.Thread(target=_end_with_parent, args=(training,), daemon=True).start()
    while True:
        try:
            cells = connection.recv()
        except (EOFError, OSError):
            return
        training.set()
        outcomes = execute(cells)
        training.clear()
        with suppress(OSError):
            connection.send(outcomes)


def _end_with_parent(training: threading.Event) -> None:
    """Wait for the end of standard input, which means that the parent has ended; then stop the training."""
    with suppress(OSError):
        os.read(0, 1)  # not through sys.stdin, whose buffer this thread would hold while the interpreter shuts down
    if training.is_set():  # else the closed connection ends the main thread
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve the parent process; the first argument is the number of the connection's file descriptor."""
    connection = Connection(int(sys.argv.pop(1)))  # the remaining arguments are the sweep's command, for the records
    cli.configure_logging()
    handle_signals()
    # Slurm sends its warning before the time limit to all processes, but only the parent reacts to it.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    with suppress(KeyboardInterrupt):  # the records say that their runs were interrupted
        serve(connection)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may arrive while this process exits
