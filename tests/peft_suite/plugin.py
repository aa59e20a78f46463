"""A pytest plugin that points PEFT's own tests at MTLoRA."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
import torch
from cases import PAIR_NAMES, QUANTISED, TABLES, LoraAsMTLora, translate
from deselected import reason_to_deselect
from transformers import OPTConfig, OPTForCausalLM

from mtlora.adapter import MTLoraConfig, MTLoraLayer

# PEFT's helpers import it at the top, for tests of image models that are not selected here
sys.modules.setdefault("diffusers", MagicMock(__version__="0.0.0"))

# a failure whose message contains the text counts as skipped, for the reason
NOT_APPLICABLE = {
    "couldn't connect to": "needs a model or tokenizer from the hub",
    "offline mode": "needs a model or tokenizer from the hub",
    "LocalEntryNotFoundError": "needs a model or tokenizer from the hub",
    "Can't find 'adapter_config.json'": "needs an adapter from the hub",
    "MTLoRA cannot adapt module": "adapts a layer type that MTLoRA refuses",
}
OUTCOMES: dict[str, tuple[str, str]] = {}  # test -> (passed, failed, skipped, deselected or unrelated; the reason)


class AlreadyCached(dict[str, int]):
    """Makes PEFT's helper `hub_online_once` believe that every model was fetched before, so that it stays offline."""

    def __contains__(self, model_id: object) -> bool:
        return True

    def __missing__(self, model_id: str) -> int:
        return 1


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Replace PEFT's tables of methods by ours, and `LoraConfig` by its MTLoRA counterpart."""
    parametrize = metafunc.parametrize
    loaders = getattr(metafunc.module, "QUANTIZATION_BACKENDS", [])

    def replaced(argnames: Any, argvalues: Any, *args: Any, **kwargs: Any) -> None:
        names = tuple(name.strip() for name in argnames.split(",")) if isinstance(argnames, str) else tuple(argnames)
        if names == PAIR_NAMES and argvalues is not metafunc.module.MIXED_ADAPTER_TEST_CASES:
            argvalues = [(name, translate(first), translate(second)) for name, first, second in argvalues]
        elif loaders and names == ("config_cls", "config_kwargs"):
            argvalues = QUANTISED
        else:
            argvalues = TABLES.get(names, argvalues)
        parametrize(argnames, argvalues, *args, **kwargs)

    metafunc.parametrize = replaced  # type: ignore[method-assign]
    if helpers := sys.modules.get("tests.testing_utils"):
        helpers._HUB_MODEL_ACCESSES = AlreadyCached()  # type: ignore[attr-defined]
    for loader in loaders:
        type(loader).model_id = str(_small_opt())
    if hasattr(metafunc.module, "LoraConfig"):
        metafunc.module.LoraConfig = LoraAsMTLora


@cache
def _small_opt() -> Path:
    """Return the folder of a random model in place of OPT-125m: with as many layers, whose names the tests count."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128, "num_attention_heads": 2}
    config = OPTConfig(num_hidden_layers=12, vocab_size=64, max_position_embeddings=32, init_std=0.05, **shape)
    folder = Path(tempfile.mkdtemp(prefix="small-opt-"))
    OPTForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that cannot apply to MTLoRA, each with its reason."""
    kept = []
    for item in items:
        reason = reason_to_deselect(item)
        if reason is None:
            kept.append(item)
        else:
            OUTCOMES[item.nodeid] = ("deselected", reason)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in OUTCOMES])
    items[:] = kept


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Record the outcome; count a test that fails for a reason in `NOT_APPLICABLE` as skipped."""
    outcome: Any = yield
    report = outcome.get_result()
    if call.excinfo is not None and report.outcome == "failed":
        text = f"{call.excinfo.typename} {call.excinfo.value}"
        for message, reason in NOT_APPLICABLE.items():
            if message in text:
                report.outcome, report.longrepr = "skipped", (str(item.path), 0, reason)
    if report.when == "call" or report.outcome != "passed":
        reason = (
            report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else "expected failure"
        )
        OUTCOMES[item.nodeid] = (report.outcome, reason if report.outcome == "skipped" else "")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Do not count a test that never made an MTLoRA configuration or layer: it is about another method."""
    with (
        patch.object(MTLoraConfig, "__post_init__", autospec=True, side_effect=MTLoraConfig.__post_init__) as config,
        patch.object(MTLoraLayer, "__init__", autospec=True, side_effect=MTLoraLayer.__init__) as layer,
    ):
        yield
    if not config.called and not layer.called and OUTCOMES[item.nodeid][0] != "skipped":
        OUTCOMES[item.nodeid] = ("unrelated", "uses no configuration that MTLoRA can stand in for")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what ran and what did not for `run.py`."""
    Path(os.environ["PEFT_SUITE_REPORT"]).write_text(json.dumps(OUTCOMES))
