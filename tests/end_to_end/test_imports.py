"""Which subpackages do without torch: `make lint` checks who imports whom, this test which packages are loaded in the end."""

import ast
import subprocess
import sys

from mtlora.base.paths import PACKAGE

SUBPACKAGES = ("mtlora.config", "mtlora.records", "mtlora.plan", "mtlora.tables", "mtlora.data.sources")

# An import inside a function or below TYPE_CHECKING counts for the linter, and an import by a library does not.
CODE = """
import importlib, pkgutil, sys

for name in sys.argv[1:]:
    package = importlib.import_module(name)
    modules = [name, *(found.name for found in pkgutil.walk_packages(getattr(package, "__path__", []), name + "."))]
    for module in modules:
        importlib.import_module(module)
        assert "torch" not in sys.modules, module
    print(name, len(modules))
"""


def test_subpackages_without_torch() -> None:
    command = [sys.executable, "-c", CODE, *SUBPACKAGES]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [line.split()[0] for line in ended.stdout.splitlines()] == list(SUBPACKAGES)


def test_no_module_imports_a_command() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                assert not node.module.endswith("__main__"), f"{path.relative_to(PACKAGE)}:{node.lineno}"
