"""Signals: Ctrl-C and SIGTERM end a run between two optimizer steps, so that it can write a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_shielded = False
_pending: int | None = None


def handle_signals() -> None:
    """From now on SIGINT raises KeyboardInterrupt and SIGTERM raises SystemExit(143); in `shielded`, at the end of its block.

    Only the first signal counts, because a second one must not interrupt the writing of the checkpoint.
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
    """Delay a signal until the block has ended: during an optimizer step only some parameters may be updated.

    A signal that has arrived before, but whose exception was lost, is raised at the end of the block, too: Python only prints an
    exception of a destructor.
    """
    global _shielded
    _shielded = True
    try:
        yield
    finally:
        _shielded = False
        if _pending is not None:
            raise _exception(_pending)  # takes precedence over an error of the block


def taken() -> None:
    """Note that the exception of a signal has arrived where it is handled, so that `shielded` does not raise it again."""
    global _pending
    _pending = None


def _arrived(number: int, frame: FrameType | None) -> None:
    global _pending
    ignore_signals()
    _pending = number
    if not _shielded:
        raise _exception(number)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
