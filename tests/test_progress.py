"""Progress of long work where there is no terminal."""

import logging

import pytest

from mtlora import progress


def test_lines_are_rare(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO), progress.progress_bar("rte") as on_step:
        for step in range(1, 5):  # the clock goes on by 20 s a step, and by 20 s with each line
            on_step(step, 40)
    assert [record.message for record in caplog.records] == ["rte: 2 of 40", "rte: 4 of 40"]
