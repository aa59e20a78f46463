"""A pytest plugin that points PEFT's own tests at MTLoRA."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from cases import TABLES, LoraAsMTLora
from deselected import reason_to_deselect

# PEFT's helpers import it at the top, for tests of image models that are not selected here
sys.modules.setdefault("diffusers", MagicMock(__version__="0.0.0"))

HUB_ERRORS = ("couldn't connect to", "offline mode", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "Max retries")
RETARGETED = pytest.StashKey[bool]()
REPORT: dict[str, Any] = {"deselected": {}, "outcomes": {}}


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Replace PEFT's tables of methods by ours, and `LoraConfig` by its MTLoRA counterpart."""
    parametrize = metafunc.parametrize

    def replaced(argnames: Any, argvalues: Any, *args: Any, **kwargs: Any) -> None:
        names = tuple(name.strip() for name in argnames.split(",")) if isinstance(argnames, str) else tuple(argnames)
        table = TABLES.get(names)
        parametrize(argnames, argvalues if table is None else table, *args, **kwargs)

    metafunc.parametrize = replaced  # type: ignore[method-assign]
    if hasattr(metafunc.module, "LoraConfig"):
        metafunc.module.LoraConfig = LoraAsMTLora


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that cannot apply to MTLoRA, each with its reason."""
    reasons = {item: reason_to_deselect(item.nodeid) for item in items}
    REPORT["deselected"] = {item.nodeid: reason for item, reason in reasons.items() if reason}
    config.hook.pytest_deselected(items=[item for item in items if reasons[item]])
    items[:] = [item for item in items if not reasons[item]]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Count a test that fails because the hub cannot be reached as skipped."""
    outcome: Any = yield
    report = outcome.get_result()
    if call.excinfo is not None and report.outcome == "failed":
        text = f"{call.excinfo.typename} {call.excinfo.value}"
        if any(error in text for error in HUB_ERRORS):
            report.outcome = "skipped"
            report.longrepr = (str(item.path), 0, "needs a model or tokenizer from the hub")
    if report.when == "call" or report.outcome != "passed":
        REPORT["outcomes"][item.nodeid] = [report.outcome, report.longrepr[2] if report.outcome == "skipped" else ""]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what ran and what did not for `run.py`."""
    Path(os.environ["PEFT_SUITE_REPORT"]).write_text(json.dumps(REPORT))
