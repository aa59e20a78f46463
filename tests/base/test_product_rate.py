"""The measured rate of matrix products."""

import pytest
import torch

from mtlora.base import product_rate
from mtlora.base.onednn import fp32_matmul_precision, onednn_is_fp32, set_fp32_matmul_precision


def test_the_rate_is_of_the_library_that_runs_use(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fp32_matmul_precision()
    monkeypatch.setitem(product_rate.SIZES, "cpu", 64)
    for choice, expected in (("stock", "ieee"), ("auto", "bf16" if onednn_is_fp32() else "ieee")):
        rate, device = product_rate.measure("cpu", choice)
        assert rate > 0
        assert (fp32_matmul_precision(), device) == (expected, "cpu")
    set_fp32_matmul_precision(before)


def test_a_gpu_that_runs_do_not_use_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(product_rate.SIZES, "cpu", 64)
    assert product_rate.measure("cpu", "stock")[1] == "cpu"


def test_a_child_process_measures_the_same() -> None:
    rate, device = product_rate.measured_in_child("cpu", "stock")
    assert 1e8 < rate < 1e15
    assert device == "cpu"
