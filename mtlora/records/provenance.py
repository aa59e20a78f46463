"""Where a record comes from: code, versions, device, command; and the memory that a run took."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlora.base.cpu import processor
from mtlora.base.paths import REPOSITORY

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

    from mtlora.train.onednn import fp32_matmul_precision

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
