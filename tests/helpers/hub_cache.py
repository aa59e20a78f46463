"""The cache of the hub's client, filled as a download leaves it."""

from pathlib import Path

import pytest

from mtlora.config.schema import TaskConfig


def use_hub_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the hub's client use a folder as its cache, and ask for nothing that is not there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def add_commit(cache: Path, task: TaskConfig, commit: str, files: dict[str, bytes]) -> Path:
    """Add a commit to which the task's branch has moved: one parquet file for each of its splits. Returns its folder."""
    repository = cache / f"datasets--{task.hub.path.replace('/', '--')}"
    branch = repository / "refs" / task.hub.revision
    branch.parent.mkdir(parents=True, exist_ok=True)
    branch.write_text(commit)
    folder = repository / "snapshots" / commit / task.hub.name
    for split, content in files.items():
        path = folder / task.hub.splits.get(split, split) / "0000.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return folder
