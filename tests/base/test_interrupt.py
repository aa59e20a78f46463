"""Signals: delayed in a shielded block, and not lost where Python swallows their exception."""

import os
import signal
import subprocess
import sys

import pytest

CODE = """
import os, signal
from mtlora.base.interrupt import handle_signals, shielded, taken

class Fragile:
    def __del__(self):
        os.kill(os.getpid(), signal.{signal})

handle_signals()
try:
    {first}
    print("still here", flush=True)
    with shielded():
        print("a step", flush=True)
    print("never reached", flush=True)
except (KeyboardInterrupt, SystemExit) as stop:
    taken()
    with shielded():
        print("saved", flush=True)
    print(type(stop).__name__, getattr(stop, "code", None), flush=True)
"""


def run(first: str, name: str) -> list[str]:
    code = CODE.format(first=first, signal=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("name", "outcome"), [("SIGINT", "KeyboardInterrupt None"), ("SIGTERM", "SystemExit 143")])
def test_a_signal_in_a_destructor_is_raised_after_the_next_step(name: str, outcome: str) -> None:
    assert run("Fragile()", name) == ["still here", "a step", "saved", outcome]


def test_a_signal_elsewhere_is_raised_at_once() -> None:
    assert run("os.kill(os.getpid(), signal.SIGTERM)", "SIGTERM") == ["saved", "SystemExit 143"]


def test_a_signal_in_a_shielded_block_waits_for_its_end() -> None:
    inside = "with shielded(): os.kill(os.getpid(), signal.SIGINT); print(1, flush=True)"
    before = signal.getsignal(signal.SIGINT)  # a shell's background job starts with SIGINT ignored
    assert run(inside, "SIGINT") == ["1", "saved", "KeyboardInterrupt None"]
    assert signal.getsignal(signal.SIGINT) is before
