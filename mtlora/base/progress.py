"""Progress: a bar with the time left on a terminal, or else a log line every `PLAIN_SECONDS`; a line for each epoch in both."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from mtlora.base.processes import is_first

PLAIN_SECONDS = 30.0  # between two lines
DAY = 86400
EPOCH_LINE = re.compile(r".+: epoch \d+ of \d+, ")  # the start of `epoch_line`, by which a log is searched

log = logging.getLogger(__name__)


def epoch_line(name: str, epoch: int, epochs: int, figures: str, seconds_left: float) -> str:
    """Return the line about the end of an epoch."""
    left = f", about {duration(seconds_left)} left" if epoch < epochs else ""
    return f"{name}: epoch {epoch} of {epochs}, {figures}{left}"


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
    """Return a time span in words, for example `1.5 min` or `9 years`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    for limit, unit, name in ((5400, 60, "min"), (48 * 3600, 3600, "hours"), (2 * 365 * DAY, DAY, "days")):
        if seconds < limit:
            return f"{seconds / unit:.{1 if seconds < 10 * unit else 0}f} {name}"
    return f"{seconds / (365 * DAY):,.0f} years"
