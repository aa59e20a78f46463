"""What all tests share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One thread: tests run beside each other, and the order of sums must not depend on the machine."""
    torch.set_num_threads(1)
