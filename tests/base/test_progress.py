"""Progress of long work where there is no terminal; time spans."""

import logging

import pytest
from rich.console import Console

from mtlora.base import progress


@pytest.mark.parametrize(("seconds", "rank", "lines"), [(-1.0, "0", 2), (1e9, "0", 0), (-1.0, "1", 0)])
def test_lines(
    seconds: float, rank: str, lines: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", seconds)
    monkeypatch.setattr(Console, "is_terminal", False)
    monkeypatch.setenv("RANK", rank)
    with caplog.at_level(logging.INFO), progress.show_progress("rte") as on_step:
        on_step(1, 40)
        on_step(2, 40)
    assert [record.message for record in caplog.records] == ["rte: 1 of 40 steps", "rte: 2 of 40 steps"][:lines]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "1.5 min"), (600, "10 min"), (3600, "60 min"), (5400, "1.5 hours")],
)
def test_duration(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
