"""Progress of long work where there is no terminal; time spans."""

import io
import logging

import pytest
from rich.console import Console

from mtlora.base import cli, progress


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
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (600, "10 min"),
        (3600, "60 min"),
        (5400, "1.5 hours"),
        (50 * 3600, "2.1 days"),
        (300 * 86400, "300 days"),
        (79410.6 * 3600, "9 years"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(("epoch", "end"), [(1, ", about 2.0 min left"), (3, "")])
def test_the_line_of_an_epoch(epoch: int, end: str) -> None:
    line = progress.epoch_line("5 runs of rte", epoch, 3, "loss 0.69, accuracy 51.00 to 52.00", 120)
    assert line == f"5 runs of rte: epoch {epoch} of 3, loss 0.69, accuracy 51.00 to 52.00{end}"
    assert progress.EPOCH_LINE.match(line)


def test_log_lines_go_to_the_stderr_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar replaces `sys.stderr` while it is shown, so that lines appear above it."""
    handler, shown = cli._Stderr(), io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    handler.emit(logging.makeLogRecord({"msg": "epoch 1"}))
    assert shown.getvalue() == "epoch 1\n"
