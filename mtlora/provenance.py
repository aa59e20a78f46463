"""Where a record comes from: code, versions, device, command; and the memory that a run took."""

import os
import platform
import resource
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlora.config import REPOSITORY

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "mtlora",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "scikit-learn",
    "scipy",
    "sacrebleu",
    "pyter3",
    "pycocoevalcap",
)


# What decides a run; results and notes of the user do not make a checkout dirty.
CODE = ("mtlora", "hydra_plugins", "conf", "experiments", "pyproject.toml", "constraints.txt")


def provenance(device: "torch.device") -> dict[str, Any]:
    """Return what identifies code, software and the machine that computes; no host name, no user name."""
    import torch

    from mtlora.compute import fp32_matmul_precision

    return {
        "git": git_state(REPOSITORY),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "fp32_matmul": "onednn" if fp32_matmul_precision() == "bf16" else "stock",
    }


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_state(folder: Path) -> dict[str, Any]:
    """Return the commit, and whether code or configuration differ from it (new files too); None outside a git checkout."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        dirty = bool(_git(folder, "status", "--porcelain", "--", *CODE).strip())
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_allowed() -> int:
    """Return the number of threads to compute with: the user's or the Slurm job's, else one per available core."""
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        given = os.environ.get(name, "")
        if given.isdecimal() and int(given) > 0:
            return min(int(given), available_cores()) if name.startswith("SLURM") else int(given)
    return available_cores()


def processor() -> str:
    """Return the CPU's model name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def reset_peak_memory(device: "torch.device") -> None:
    """Start a new measurement of peak memory (on Linux; elsewhere the peak is that of the process)."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: "torch.device") -> int:
    """Return the peak memory since the reset: of the GPU where one is used, else resident memory of the process."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
