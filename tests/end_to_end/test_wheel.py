"""An installed wheel, outside the checkout: it carries every file that a command reads, and writes to the working directory."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import mtlora
from mtlora.base.paths import REPOSITORY

CELL = ("task=rte", "model=tiny", "transform=shim", "rank=r8", "seed=0", "train.limit_examples=64", "train.epochs=1")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # --no-build-isolation: with hatchling from the extra `dev`, without network.
    pip("wheel", str(REPOSITORY), "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder))
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and, through a .pth file, the packages of this one without the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    interpreter = folder / "bin" / "python"
    pip("--python", str(interpreter), "install", "--no-deps", "--no-index", "--no-compile", str(wheel))
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # their own .pth files are not read
    return interpreter


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr


def run(python: Path, folder: Path, *arguments: str) -> str:
    """Run a command as a user of the wheel does; return its standard output."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HYDRA_FULL_ERROR")}
    environment |= {"OMP_NUM_THREADS": "1"}
    command = [str(python), *arguments]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def expected_files() -> dict[str, Path]:
    """The name in the wheel of every file that is committed, or about to be, and its path here."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--"]
    command += ["mtlora", "hydra_plugins", "conf", "experiments", "results/published.csv"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    inside = ("mtlora/", "hydra_plugins/")
    return {
        name if name.startswith(inside) else f"mtlora/_files/{name}": REPOSITORY / name
        for name in listed
        if (REPOSITORY / name).is_file()
    }


def test_it_has_every_file_of_the_package_and_every_file_that_users_edit(wheel: Path) -> None:
    expected = expected_files()
    endings = {Path(name).suffix for name in expected}
    assert {".py", ".yaml", ".csv", ".html", ".css", ".js", ".json", ".safetensors"} <= endings
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert inside == expected.keys()
        assert all(archive.read(name) == path.read_bytes() for name, path in expected.items())
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert f"\nVersion: {mtlora.__version__}\n" in archive.read(metadata).decode()
    assert "hydra_plugins/__init__.py" not in inside, "it is a namespace package: other distributions add to it"


def test_every_command_runs_outside_the_checkout(python: Path, tmp_path: Path) -> None:
    where = run(python, tmp_path, "-c", "import mtlora; print(mtlora.__file__)").strip()
    assert Path(where).is_relative_to(python.parent.parent), "the wheel is what is tested"

    run(python, tmp_path, "-m", "mtlora.train", *CELL)
    (record,) = (tmp_path / "results" / "runs").rglob("record.json")
    text = record.read_text()
    assert '"status": "success"' in text
    assert '"commit": null' in text, "a wheel has no checkout"

    two_seeds = ("glue", *(item for item in CELL if item != "seed=0"), "seed=0,1")
    assert "MTLoRA SHIM" in run(python, tmp_path, "-m", "mtlora.reproduce", *two_seeds)  # trains one, in a child
    assert len(list((tmp_path / "results" / "runs").rglob("record.json"))) == 2
    assert "MTLoRA SHIM" in run(python, tmp_path, "-m", "mtlora.tables", *two_seeds)
    assert run(python, tmp_path, "-m", "mtlora.report", *two_seeds).startswith("Nothing can be said yet.")
    for name in ("tables/glue.md", "tables/glue.csv", "report.html"):
        assert (tmp_path / "results" / name).is_file()
    assert "glue" in run(python, tmp_path, "-m", "mtlora.plan", "glue")
    assert "usage" in run(python, tmp_path, "-m", "mtlora.score", "--help")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
