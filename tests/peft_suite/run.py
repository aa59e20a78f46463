"""Run PEFT's own test-suite against `MTLoraConfig`.

Fetches the source package of exactly the installed PEFT version with pip (the wheel has no tests), points its tables of
methods at MTLoRA (`plugin.py`, `cases.py`) and prints what ran, what was left out and why. Needs the package index, not
the model hub: tests that need a model from there are counted as skipped, except those of quantised models, which get a small
random one of the same architecture (and need the extra `quant`).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULES = (
    "test_config",
    "test_custom_models",
    "test_helpers",
    "test_initialization",
    "test_low_level_api",
    "test_mapping",
    "test_other",
    "test_quantization",
    "test_tuners_utils",
)
NOT_RUN = "the other files need models from the hub, a GPU or a library that is not installed, or test another method"


def pip(*arguments: str) -> None:
    """Run pip of this interpreter quietly; end with its message if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--quiet"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"pip {' '.join(arguments)} failed: {done.stderr.strip()}")


def fetch(cache: Path) -> Path:
    """Return the folder of PEFT's unpacked source package, downloading it on first use."""
    name = f"peft-{version('peft')}"
    source = cache / name
    if not (source / "tests" / "__init__.py").exists():
        with tempfile.TemporaryDirectory() as folder:
            pip("download", "--no-deps", "--no-binary", "peft", "--dest", folder, f"peft=={version('peft')}")
            with tarfile.open(Path(folder) / f"{name}.tar.gz") as archive:
                archive.extractall(cache, filter="data")
        pip(
            "install", "--no-deps", "--upgrade", "--target", str(source / "extra"), "parameterized"
        )  # a test dependency
        # last, as the sign that the folder is complete; the package needs it for its relative imports
        (source / "tests" / "__init__.py").touch()
    return source


def run_tests(source: Path, pytest_arguments: list[str]) -> dict[str, tuple[str, str]]:
    """Run the selected modules and return {test: (outcome, reason)}."""
    report = source / "outcomes.json"
    report.unlink(missing_ok=True)
    paths = [str(HERE), str(HERE.parents[1]), str(source / "extra")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "PEFT_SUITE_REPORT": str(report),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "plugin",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        "-W",
        "ignore",
    ]
    modules = [f"tests/{module}.py" for module in MODULES]
    subprocess.run(
        [*command, "-q", "--tb=short", *modules, *pytest_arguments], cwd=source, env=environment, check=False
    )
    if not report.exists():
        sys.exit("PEFT's tests did not run to the end; see the messages above.")
    return {test: (outcome, reason) for test, (outcome, reason) in json.loads(report.read_text()).items()}


def summary(outcomes: dict[str, tuple[str, str]]) -> str:
    """Return the counts, then every test that was left out or skipped, grouped by reason."""
    groups: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for test, (outcome, reason) in outcomes.items():
        if outcome != "passed":
            groups[outcome, reason][re.sub(r"\[.*", "", test.removeprefix("tests/"), flags=re.DOTALL)] += 1
    lines = []
    for (outcome, reason), tests in sorted(groups.items()):
        lines += ["", f"{outcome} ({tests.total()}): {reason}"]
        lines += [f"    {test}" + (f" x {count}" if count > 1 else "") for test, count in sorted(tests.items())]
    counts = Counter(outcome for outcome, _ in outcomes.values())
    ran = counts["passed"] + counts["failed"]
    lines += [
        "",
        f"PEFT {version('peft')} against MTLoraConfig: {ran} ran, {counts['passed']} passed, {counts['failed']} failed",
    ]
    lines += [f"not counted: {counts[name]} {name}" for name in ("skipped", "deselected", "unrelated")]
    return "\n".join([*lines, f"files not run: {NOT_RUN}"])


def main() -> None:
    """Fetch, run, report; exit with 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mtlora" / "peft-suite"
    parser.add_argument("--cache", type=Path, default=default, help="folder for PEFT's sources (default: %(default)s)")
    options, pytest_arguments = parser.parse_known_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    outcomes = run_tests(fetch(options.cache), pytest_arguments)
    print(summary(outcomes))
    sys.exit(any(outcome == "failed" for outcome, _ in outcomes.values()) or not outcomes)


if __name__ == "__main__":
    main()
