"""One run in two processes gives what one process gives, and goes on after a kill."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_runs import NO_DROPOUT, cell_in, finish, overrides, record_of, rows, tensors

from mtlora.base.paths import REPOSITORY
from mtlora.records.record import RunRecord
from mtlora.train.state import CHECKPOINT

# 67 = 4 batches of 16 and one of 3: odd shares, and a last batch of which the second process gets one row.
CLASSIFICATION = (*NO_DROPOUT, "adapter.dropout=0", "train.limit_examples=67", "transform=ctcm", "train.accumulation=2")


def torchrun(arguments: list[str], **more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {"OMP_NUM_THREADS": "1"} | more
    return subprocess.Popen(
        [*command, "-m", "mtlora.train", *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_close(two: Path, one: Path) -> None:
    assert len(rows(two)) == len(rows(one))
    for ours, theirs in zip(rows(two), rows(one), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5, abs=2e-6)
    for name, tensor in tensors(one).items():
        np.testing.assert_allclose(tensors(two)[name], tensor, rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    "more",
    [
        CLASSIFICATION,
        (
            "task=e2e",
            "model=tiny_gpt2",
            "adapter.dropout=0",
            "transform=dtsm",
            "train.limit_examples=35",
            "decode.limit_contexts=5",
            "decode.max_new_tokens=8",
            "decode.beams=2",
            "task.metrics.test=[bleu,nist]",  # without those that start Java, which takes seconds each time
        ),
    ],
    ids=["classification", "generation"],
)
def test_two_processes_equal_one(more: tuple[str, ...], tmp_path: Path) -> None:
    record, one = finish(tmp_path / "one", *more)
    process = torchrun(overrides(tmp_path / "two", *more))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    cell = cell_in(tmp_path / "two", *more)
    both = RunRecord.load(cell.folder / "record.json")
    assert both.status == "success"
    assert both.provenance["processes"] == 2
    assert both.cost["tokens"] == record.cost["tokens"]
    assert_close(cell.folder, one)
    assert (cell.folder / "predictions.jsonl").read_text().count("\n") == (one / "predictions.jsonl").read_text().count(
        "\n"
    )
    assert [m["name"] for m in both.metrics] == [m["name"] for m in record.metrics]


def test_two_processes_go_on_after_a_kill(tmp_path: Path) -> None:
    more = (*CLASSIFICATION, "train.epochs=10", "train.checkpoint_seconds=0")
    cell = cell_in(tmp_path / "two", *more)
    process = torchrun(overrides(tmp_path / "two", *more))
    deadline = time.monotonic() + 90
    while not (cell.folder / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert (cell.folder / CHECKPOINT).exists()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for number in (*map(int, children), process.pid):
        os.kill(number, 9)
    process.communicate()
    assert record_of(cell).status == "running"
    again = torchrun(overrides(tmp_path / "two", *more))
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output
    _, one = finish(tmp_path / "one", *more)
    assert_close(cell.folder, one)
