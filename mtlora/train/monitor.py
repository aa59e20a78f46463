"""The progress of a sweep that runs in other processes, read from its records and its log."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mtlora.base.files import is_held, whole_lines
from mtlora.base.progress import EPOCH_LINE, PLAIN_SECONDS, duration
from mtlora.plan.cell import Cell
from mtlora.plan.status import SETTLED, State, state_of
from mtlora.records.record import RECORD, record_status


class Monitor:
    """Shows how many cells are done and the time left, read from the records: a bar on a terminal, lines elsewhere."""

    def __init__(self, cells: Sequence[Cell], console: Console):
        self.cells, self.console = list(cells), console
        self.started = self.spoken = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(
            *columns, TextColumn("{task.fields[left]}"), console=console, disable=not console.is_terminal
        )
        self.before = {cell.sha: record_time(cell) for cell in cells}
        self.seen = dict(self.before)
        self.log: Path | None = None  # of the current sweep
        self.read: dict[Path, int] = {}  # log -> the bytes of it that have been read
        self.status: dict[str, str | None] = {}  # config_sha -> status of a record written since then

    def __enter__(self) -> "Monitor":
        self.line = self.bar.add_task("cells", total=len(self.cells), left="")
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def wait_for(self, cells: Sequence[Cell]) -> None:
        """Wait until no other process is training one of the cells."""
        if held := [cell for cell in cells if is_held(cell.lock)]:
            self.console.print(f"waiting for {len(held)} cell{'s' * (len(held) != 1)} that another process is training")
        while any(is_held(cell.lock) for cell in held):
            self.look()
            time.sleep(0.5)

    def is_settled(self, cell: Cell) -> bool:
        """Tell whether a cell is done, or has failed since this command started."""
        state = state_of(cell)
        return state in SETTLED or (state == State.FAILED and record_time(cell) != self.before[cell.sha])

    def look(self) -> None:
        """Read the records written since the last look, and show the progress; a failed run may still succeed later."""
        self.show_epochs()
        for cell in self.cells:
            if self.status.get(cell.sha) != "success" and (written := record_time(cell)) != self.seen[cell.sha]:
                self.seen[cell.sha], self.status[cell.sha] = written, record_status(cell.folder)
        failures = sum(status in ("failed", "interrupted") for status in self.status.values())
        done = failures + sum(status == "success" for status in self.status.values())
        elapsed = time.monotonic() - self.started
        left = f", about {duration(elapsed / done * (len(self.cells) - done))} left" if done else ""
        failed = f", {failures} failed" if failures else ""
        self.bar.update(self.line, completed=done, left=left.removeprefix(", ") + failed)
        if not self.console.is_terminal and time.monotonic() - self.spoken > PLAIN_SECONDS:
            self.spoken = time.monotonic()
            self.console.print(f"{done}/{len(self.cells)} cells done{failed}, {duration(elapsed)} so far{left}")

    def show_epochs(self) -> None:
        """Print the lines about epochs that the sweep has logged since the last look."""
        if self.log is None:
            return
        lines, self.read[self.log] = whole_lines(self.log, self.read.get(self.log, 0))
        for line in lines:
            if EPOCH_LINE.match(line):
                self.spoken = time.monotonic()
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def record_time(cell: Cell) -> int:
    """Return when a cell's record was written, in nanoseconds; 0 if there is none."""
    try:
        return (cell.folder / RECORD).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
