"""Every job of a sweep trains in a child process, so that whatever kills it is one failed run and never ends the sweep.

The child stays for the next jobs of its parent: imports, tokenizer, backbone and data are loaded once. It is replaced when it
has died, after a failure (nobody knows in which state that left it), and every `RUNS_PER_CHILD` runs.

`train_in_child` is the parent's side; `main` is the child's.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from mtlora import cli
from mtlora.cells import Cell
from mtlora.errors import UserError
from mtlora.files import Busy, only_process
from mtlora.interrupt import handle_signals, ignore_signals
from mtlora.provenance import now
from mtlora.record import RECORD, RunRecord

RUNS_PER_CHILD = 50  # oneDNN keeps memory for every shape that it has met
SECONDS_TO_SAVE = 60.0  # an interrupted child finishes its step and writes a checkpoint


@dataclass(frozen=True)
class Answer:
    """What a child says about a job: a record, or why there is none, in one line."""

    record: RunRecord | None = None
    failure: str | None = None
    busy: str | None = None


class Child:
    """A process that trains one cell after another."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            # Not with -m: what is pickled must know its classes as mtlora.worker's, not as those of __main__.
            command = [sys.executable, "-c", "from mtlora.worker import main; main()", str(theirs.fileno())]
            # A session of its own: a terminal's Ctrl-C reaches it once, through us. Its standard input ends when we do.
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.PIPE, start_new_session=True
            )
        self.runs = 0

    def train(self, cell: Cell) -> Answer | None:
        """Train a cell; None where the process died. Ctrl-C and SIGTERM are passed on, and waited for, before they go on here."""
        self.runs += 1
        with suppress(EOFError, OSError), self._passing_signals():
            self.connection.send(cell)
            answer = self.connection.recv()
            assert isinstance(answer, Answer)
            return answer
        return None

    @contextmanager
    def _passing_signals(self) -> Iterator[None]:
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as stop:
            ignore_signals()  # Slurm sends several; none may cut short what the first has begun
            self.process.send_signal(signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(SECONDS_TO_SAVE)
            self.end()
            raise

    def end(self) -> str:
        """End the process and say how it ended."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)  # one that has died, or waits for work, ends by itself
        self.process.kill()
        code = self.process.wait()
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        if code != -signal.SIGKILL:
            return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return "killed by SIGKILL (by hand, or by the system for want of memory)"


_child: Child | None = None


def train_in_child(cell: Cell) -> RunRecord | None:
    """Train a cell in the child of this process; None if another process is training it.

    Raises:
        UserError: the run failed; its record says the same.
    """
    global _child
    if _child is None or _child.runs >= RUNS_PER_CHILD:
        if _child is not None:
            _child.end()
        _child = Child()
    child, _child = _child, None  # kept only after success
    answer = child.train(cell)
    if answer is None:
        answer = Answer(failure=record_death(cell, child.end()))
    if answer.failure is not None:
        child.end()
        raise UserError(answer.failure)
    _child = child
    return answer.record


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
    training = threading.Event()
    threading.Thread(target=_end_with_parent, args=(training,), daemon=True).start()
    while True:
        try:
            cell = connection.recv()
        except EOFError:
            return
        training.set()
        answer = attempt(cell)
        training.clear()
        with suppress(OSError):
            connection.send(answer)


def attempt(cell: Cell) -> Answer:
    """Train a cell and answer; only what must end this process gets out."""
    from mtlora.run import execute  # imports torch and transformers: the parent never needs them

    try:
        return Answer(record=execute(cell))
    except Busy as busy:
        return Answer(busy=str(busy))
    except UserError as error:
        return Answer(failure=cli.one_line(error))


def _end_with_parent(training: threading.Event) -> None:
    """Wait for the end of standard input, which comes when the parent is gone, however it went; then stop what is trained."""
    with suppress(OSError):
        os.read(0, 1)  # not through sys.stdin, whose buffer this thread would hold while the interpreter shuts down
    if training.is_set():  # else the main thread ends by itself, with the connection
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve the parent that gave us the number of a file descriptor."""
    cli.configure_logging()
    handle_signals()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's warning before the time limit goes to all processes: the parent acts
    with suppress(KeyboardInterrupt):  # the record says so, and the parent knows
        serve(Connection(int(sys.argv[1])))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent's end must not disturb ours
