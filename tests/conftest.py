"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.hub_server import HubServer, serve

os.environ.pop("MTLORA_BY_MAKE", None)  # of `make test`: messages name arguments, unless a test sets it


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One thread: tests run beside each other, and the order of sums must not depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What tests write need not survive a power cut: thousands of small files would wait for the disk, one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A stand-in of the Hugging Face hub, and an empty cache in `tmp_path / "hub"`."""
    yield from serve(tmp_path / "hub", monkeypatch)
