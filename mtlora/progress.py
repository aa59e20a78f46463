"""The progress of long work: a bar on a terminal, now and then a line elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

PLAIN_SECONDS = 30.0  # between two lines

log = logging.getLogger(__name__)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows (steps done, steps in all) of the work called `title`."""
    console = Console(stderr=True)
    spoken = time.monotonic()

    def say(step: int, total: int) -> None:
        nonlocal spoken
        if time.monotonic() - spoken > PLAIN_SECONDS:
            spoken = time.monotonic()
            log.info("%s: %d of %d", title, step, total)

    if not console.is_terminal:
        yield say
        return
    with Progress(console=console, transient=True) as bar:
        line = bar.add_task(title, total=None)
        yield lambda step, total: bar.update(line, completed=step, total=total)
