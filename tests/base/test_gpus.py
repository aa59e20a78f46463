"""The GPUs of a machine, which has none here: a stand-in for nvidia-smi names them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtlora.base.gpus import visible_gpus


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return command


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, ["0", "1", "2"]), ("2, GPU-5f,", ["2", "GPU-5f"]), ("", [])],
)
@pytest.mark.usefixtures("nvidia_smi")
def test_what_cuda_visible_devices_has_else_all(
    given: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == expected


def test_no_driver_and_a_driver_without_gpus(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert visible_gpus() == []
    monkeypatch.setenv("PATH", "")
    assert visible_gpus() == []


def test_the_parent_of_a_sweep_never_imports_torch() -> None:
    """So it has no CUDA context. What needs torch, as the rate of matrix products, is measured in a child."""
    modules = "mtlora.reproduce, mtlora.tune, mtlora.plan.__main__, mtlora.train.sweep, mtlora.train.worker"
    launchers = "hydra_plugins.mtlora_launchers.children_launcher"
    code = f"import sys, {modules}, {launchers}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
