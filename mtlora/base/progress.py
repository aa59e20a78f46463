"""Progress: a bar on a terminal, or else a log line every `PLAIN_SECONDS`."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from mtlora.base.processes import is_first

PLAIN_SECONDS = 30.0  # between two lines

log = logging.getLogger(__name__)


@contextmanager
def show_progress(title: str, unit: str = "steps") -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (units done, units in all) that shows the progress of `title`; only a run's first process shows it."""
    console = Console(stderr=True)
    logged = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal logged
        now = time.monotonic()
        if now - logged > PLAIN_SECONDS:
            logged = now
            log.info("%s: %d of %d %s", title, done, total, unit)

    if not is_first():
        yield lambda done, total: None
    elif not console.is_terminal:
        yield line
    else:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def duration(seconds: float) -> str:
    """Return a time span in words, for example `1.5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
