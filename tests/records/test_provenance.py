"""Which commit a record names."""

import subprocess
from pathlib import Path

from mtlora.records.provenance import git_state


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_that_of_the_checkout_and_never_of_a_project_that_the_package_is_installed_in(
    tmp_path: Path,
) -> None:
    project, installed = tmp_path, tmp_path / ".venv" / "lib"
    for root in (project, installed):
        (root / "mtlora").mkdir(parents=True)
        (root / "mtlora" / "__init__.py").touch()
    git(project, "init", "--quiet")
    assert git_state(project) == {"commit": None, "dirty": None}, "no commit yet"
    git(project, "add", "mtlora")
    git(project, "commit", "--quiet", "-m", "one")
    state = git_state(project)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (project / "mtlora" / "new.py").touch()
    assert git_state(project) == state | {"dirty": True}
    assert git_state(installed) == {"commit": None, "dirty": None}
