"""An installed wheel, outside the checkout: it carries every file that a command reads, and writes to the working directory."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import mtlora
from mtlora.base.paths import REPOSITORY

pytestmark = pytest.mark.xdist_group("wheel")  # one process builds the wheel and its environments, once

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
    interpreter = installed(wheel, folder)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # their own .pth files are not read
    return interpreter


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and nothing else."""
    return installed(wheel, tmp_path_factory.mktemp("bare"))


def installed(wheel: Path, folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    interpreter = folder / "bin" / "python"
    pip("--python", str(interpreter), "install", "--no-deps", "--no-index", "--no-compile", str(wheel))
    return interpreter


def environment() -> dict[str, str]:
    """Return the environment of a user of the wheel, from which no checkout can be imported."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HYDRA_FULL_ERROR")} | {
        "OMP_NUM_THREADS": "1"
    }


def run(python: Path, folder: Path, *arguments: str) -> str:
    """Run a command as a user of the wheel does; return its standard output."""
    command = [str(python), *arguments]
    ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
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


def test_without_an_extra_it_requires_what_the_adapter_imports(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        adapter = [archive.read(name).decode() for name in archive.namelist() if name.startswith("mtlora/adapter/")]
    stated = metadata.get_all("Requires-Dist", [])
    core = {re.match(r"[\w.-]+", line)[0]: line for line in stated if "extra ==" not in line}  # type: ignore[index]
    nodes = [node for text in adapter for node in ast.walk(ast.parse(text))]
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    imported |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    others = {name.split(".")[0] for name in imported} - {"mtlora", *sys.stdlib_module_names}
    assert set(core) == others == {"torch", "transformers", "peft", "safetensors"}
    assert all(">=" in line for line in core.values())
    for extra in ("harness", "mini", "metrics", "joblib", "slurm", "ray"):  # an extra of the harness includes it
        assert any(line.startswith("hydra-core") and f"'{extra}'" in line for line in stated), extra


def commands() -> list[str]:
    """The modules that `python -m` runs."""
    found = [path.relative_to(REPOSITORY) for path in (REPOSITORY / "mtlora").rglob("*.py") if is_main(path)]
    return sorted(".".join(path.with_suffix("").parts).removesuffix(".__main__") for path in found)


def is_main(path: Path) -> bool:
    return '\nif __name__ == "__main__":' in path.read_text()


@pytest.mark.parametrize("command", commands())
def test_without_the_harness_a_command_is_one_line(bare_python: Path, tmp_path: Path, command: str) -> None:
    arguments = [str(bare_python), "-m", command, "--help"]
    ended = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: this command needs ")
    assert "hydra-core" in line
    assert line.endswith(": pip install 'mtlora[harness]'")
    assert (ended.returncode, ended.stdout) == (1, "")


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
