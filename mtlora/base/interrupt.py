"""Ctrl-C and SIGTERM end a run where it can go on later: between two optimizer steps, with a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_shielded = False
_pending: int | None = None


def handle_signals() -> None:
    """From now on SIGINT raises KeyboardInterrupt and SIGTERM raises SystemExit(143), not inside of `shielded`.

    Only the first one counts: a second signal must not break what the first has begun to save. (SIGKILL still can.)
    """
    if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
        for number in SIGNALS:
            signal.signal(number, _arrived)


def ignore_signals() -> None:
    """From now on SIGINT and SIGTERM do nothing."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def shielded() -> Iterator[None]:
    """Hold a signal back until the block has ended: inside, half of the parameters may have been updated."""
    global _shielded, _pending
    _shielded = True
    try:
        yield
    finally:
        _shielded = False
        if _pending is not None:
            number, _pending = _pending, None
            raise _exception(number)  # also where the block has failed: the signal decides what happens next


def _arrived(number: int, frame: FrameType | None) -> None:
    global _pending
    ignore_signals()
    if _shielded:
        _pending = number
    else:
        raise _exception(number)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
