"""Every job of a sweep trains in a child process, so that whatever kills it is one failed run and never ends the sweep.

A child stays for the next jobs of its parent: imports, tokenizer, backbone and data are loaded once. It is replaced when it
has died, after a failure (nobody knows in which state that left it), and every `RUNS_PER_CHILD` runs.

`train_in_child` and `train_in_children` are the parent's side; `main` is the child's.
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
from mtlora.base.interrupt import handle_signals, ignore_signals
from mtlora.plan.cell import Cell
from mtlora.records.provenance import now
from mtlora.records.record import RECORD, RunRecord
from mtlora.train.answer import Answer, Status
from mtlora.train.cohort.grouping import halves

RUNS_PER_CHILD = 50  # oneDNN keeps memory for every shape that it has met
SECONDS_TO_SAVE = 60.0  # an interrupted child finishes its step and writes a checkpoint


class Child:
    """A process that trains cells, one after another or several together."""

    def __init__(self, threads: int | None = None) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            # Not with -m: what is pickled must know its classes as mtlora.train.worker's, not as those of __main__.
            command = [
                sys.executable,
                "-c",
                "from mtlora.train.worker import main; main()",
                str(theirs.fileno()),
                *sys.argv[1:],
            ]
            # A session of its own: a terminal's Ctrl-C reaches it once, through us. Its standard input ends when we do.
            self.process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,
                start_new_session=True,
                env=os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {}),
            )
        self.runs = 0

    def send(self, cells: Sequence[Cell]) -> None:
        """Hand over cells to be trained together."""
        self.runs += len(cells)
        with suppress(OSError):  # it has died: `receive` says so
            self.connection.send(tuple(cells))

    def receive(self) -> list[Answer] | None:
        """Return an answer for each cell, waiting for it; None where the process died."""
        with suppress(EOFError, OSError):
            answers = self.connection.recv()
            assert isinstance(answers, list)
            return answers
        return None

    def is_dead(self) -> bool:
        """Tell whether the process has ended by itself, as by a kill while it waited for work."""
        return self.process.poll() is not None

    def end(self, patience: float = 1.0) -> str:
        """End the process and say how it ended; one that has died, or waits for work, ends by itself."""
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
        return "killed by SIGKILL (by hand, or by the system for want of memory)"


@contextmanager
def passing_signals(children: Sequence[Child]) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on to the children, and wait until they have saved, before they go on here.

    Args:
        children: may change while the block runs.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        ignore_signals()  # schedulers send several; none may cut short what the first has begun
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        until = time.monotonic() + SECONDS_TO_SAVE
        for child in children:
            child.process.send_signal(number)
            child.connection.close()  # one that has just answered must not wait for more
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, until - time.monotonic()))
            child.end()
        raise


_child: Child | None = None


def train_in_child(cell: Cell) -> RunRecord | None:
    """Train a cell in the child of this process; None if another process is training it.

    Raises:
        UserError: the run failed; its record says the same.
    """
    global _child
    _end_with_loky()
    if _child is None or _child.runs >= RUNS_PER_CHILD or _child.is_dead():
        if _child is not None:
            _child.end()
        _child = Child()
    child, _child = _child, None  # kept only after success
    with passing_signals([child]):
        child.send([cell])
        answers = child.receive()
    answer = answers[0] if answers else Answer(Status.FAILED, reason=record_death(cell, child.end()))
    if answer.status == Status.FAILED:
        child.end()
        raise UserError(answer.reason)
    _child = child
    return answer.record


def train_in_children(
    cohorts: Sequence[list[Cell]], children: int, threads: int | None, on_answer: Callable[[Cell, Answer], None]
) -> None:
    """Train cohorts of cells in several children at a time; a cohort that dies goes on as two of half the size.

    Args:
        threads: of each child; None leaves it to `provenance.threads_allowed`.
        on_answer: called once for each cell.
    """
    waiting, idle = deque(cohorts), list[Child]()
    busy: dict[Connection, tuple[Child, list[Cell]]] = {}
    alive: list[Child] = []
    with passing_signals(alive):
        while waiting or busy:
            while waiting and len(busy) < children:
                if idle and idle[-1].is_dead():
                    alive.remove(idle[-1])
                    idle.pop().end()
                if not idle:
                    idle.append(Child(threads))
                    alive.append(idle[-1])
                child = idle.pop()
                busy[child.connection] = (child, waiting.popleft())
                child.send(busy[child.connection][1])
            for connection in wait(list(busy)):
                child, cells = busy.pop(connection)  # type: ignore[call-overload]  # only connections are waited for
                answers = child.receive() or [Answer(Status.RETRY)] * len(cells)
                again = [cell for cell, answer in zip(cells, answers, strict=True) if answer.status == Status.RETRY]
                if again or child.runs >= RUNS_PER_CHILD or any(answer.status == Status.FAILED for answer in answers):
                    alive.remove(child)
                    how = child.end()
                else:
                    idle.append(child)
                if len(again) == len(cells) == 1:
                    answers, again = [Answer(Status.FAILED, reason=record_death(cells[0], how))], []
                waiting.extendleft(halves(again) if len(again) > 1 else [again] if again else [])
                for cell, answer in zip(cells, answers, strict=True):
                    if answer.status != Status.RETRY:
                        on_answer(cell, answer)
    for child in idle:
        child.end()


def _end_with_loky() -> None:
    """In a process of joblib, end when the sweep's process is gone: joblib leaves its processes behind for ever."""
    if not current_process().name.startswith("Loky") or any(t.name == "end-with-loky" for t in threading.enumerate()):
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)  # the child sees it, saves and ends too

    threading.Thread(target=watch, daemon=True, name="end-with-loky").start()


def record_death(cell: Cell, how: str) -> str:
    """Mark the run of a dead process as failed, unless another process has begun it anew; return the reason."""
    reason = f"its process was {how}"
    with suppress(UserError, OSError, ValueError), only_process(cell.lock, cell.run_id):
        record = RunRecord.load(cell.folder / RECORD)
        if record.status == "running":
            record.status, record.error = "failed", reason
            record.provenance["ended"] = now()
            record.save(cell.folder)
    return f"{cell.run_id} failed: {reason}"


def serve(connection: Connection) -> None:
    """Train the cells that come through a connection until it ends."""
    from mtlora.train.execution import execute  # imports torch and transformers, which the parent never needs

    training = threading.Event()
    threading.Thread(target=_end_with_parent, args=(training,), daemon=True).start()
    while True:
        try:
            cells = connection.recv()
        except (EOFError, OSError):
            return
        training.set()
        answers = execute(cells)
        training.clear()
        with suppress(OSError):
            connection.send(answers)


def _end_with_parent(training: threading.Event) -> None:
    """Wait for the end of standard input, which comes when the parent is gone, however it went; then stop what is trained."""
    with suppress(OSError):
        os.read(0, 1)  # not through sys.stdin, whose buffer this thread would hold while the interpreter shuts down
    if training.is_set():  # else the main thread ends by itself, with the connection
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve the parent that gave us the number of a file descriptor."""
    connection = Connection(int(sys.argv.pop(1)))  # what is left is the sweep's command, for the records
    cli.configure_logging()
    handle_signals()
    signal.signal(
        signal.SIGUSR2, signal.SIG_IGN
    )  # Slurm's warning before the time limit goes to all processes: the parent acts
    with suppress(KeyboardInterrupt):  # the record says so, and the parent knows
        serve(connection)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent's end must not disturb ours
