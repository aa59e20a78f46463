"""The provenance of a record: the code, its state in git and the versions of the packages that it uses."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mtlora.base.paths import REPOSITORY
from mtlora.records.schema import Git, Provenance

PACKAGES = (
    "mtlora",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "bitsandbytes",
    "numpy",
    "scikit-learn",
    "scipy",
    "sacrebleu",
    "pyter3",
    "pycocoevalcap",
)

# Only changes to these files make a checkout dirty; results and notes of the user do not.
CODE = ("mtlora", "hydra_plugins", "conf", "experiments", "pyproject.toml", "constraints.txt")


def provenance() -> Provenance:
    """Identify the code and the software of this process; no host name, no user name."""
    return {
        "git": git_state(REPOSITORY),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.machine()}",
    }


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_state(folder: Path) -> Git:
    """Return the commit, and whether code or configuration differ from it (new files too); None outside a git checkout."""
    try:
        # An installed wheel often lies inside the checkout of another project, whose commit would be the wrong one.
        _git(folder, "ls-files", "--error-unmatch", "mtlora/__init__.py")
        commit = _git(folder, "rev-parse", "HEAD").strip()
        dirty = bool(_git(folder, "status", "--porcelain", "--", *CODE).strip())
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout


@cache  # a process trains many runs
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
