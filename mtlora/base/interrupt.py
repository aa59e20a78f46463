"""Ctrl-C and SIGTERM end a run between two optimizer steps, with a checkpoint, so that it can be resumed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_shielded = False
_pending: int | None = None


def handle_signals() -> None:
    """From now on SIGINT raises KeyboardInterrupt and SIGTERM raises SystemExit(143), inside `shielded` once its block has ended.

    Only the first signal counts: a second one must not interrupt the saving that the first has started. (SIGKILL still can.)
    """
    if threading.current_thread() is threading.main_thread():  # Python sets handlers only there
        for number in SIGNALS:
            signal.signal(number, _arrived)


def ignore_signals() -> None:
    """From now on SIGINT and SIGTERM do nothing."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def shielded() -> Iterator[None]:
    """Delay a signal until the block has ended: within it, only some of the parameters may have been updated."""
    global _shielded, _pending
    _shielded = True
    try:
        yield
    finally:
        _shielded = False
        if _pending is not None:
            number, _pending = _pending, None
            raise _exception(number)  # also if the block has failed: the signal takes precedence


def _arrived(number: int, frame: FrameType | None) -> None:
    global _pending
    ignore_signals()
    if _shielded:
        _pending = number
    else:
        raise _exception(number)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
