"""The settings for PEFT's method comparison are configurations of MTLoRA, and differ from PEFT's own for LoRA as stated."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from peft import LoraConfig, PeftConfig

from mtlora.adapter import MTLoraConfig
from mtlora.adapter.transforms import first_step

ROOT = Path(__file__).resolve().parents[2] / "docs" / "upstream" / "method_comparison"
EXPERIMENTS = sorted(path.parent for path in ROOT.rglob("adapter_config.json"))
# PEFT's own experiment lora/llama-3.2-3B-rank32, as far as MTLoraConfig has the fields
LORA = LoraConfig(task_type="CAUSAL_LM", r=32, lora_alpha=64)
ALPHAS = {"llama-3.2-3B-rank32-shim": 64, "llama-3.2-3B-rank32-shim-matched": round(64 / first_step("shim", 32), 1)}


def test_each_experiment_is_known_here() -> None:
    assert [path.name for path in EXPERIMENTS] == list(ALPHAS)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_a_setting_is_lora_s_with_a_t(path: Path) -> None:
    # the form that PEFT's script demands: experiments/METHOD/NAME
    assert path.parts[-3:-1] == ("experiments", "mtlora")
    content = json.loads((path / "adapter_config.json").read_text())
    assert set(content) == {field.name for field in fields(MTLoraConfig)} - {"peft_version"}
    config = PeftConfig.from_pretrained(str(path))
    assert isinstance(config, MTLoraConfig)
    assert (config.structure, config.mtlora_alpha) == ("shim", ALPHAS[path.name])
    own = {
        "peft_type",
        "structure",
        "mtlora_alpha",
        "mtlora_dropout",
        "init_weights",
        "fused_modules",
        "fused_transform",
    }
    shared = set(content) - own
    assert {name: getattr(config, name) for name in shared} == {name: getattr(LORA, name) for name in shared}
