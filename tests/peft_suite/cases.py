"""The rows that replace the tables of PEFT's test-suite: MTLoRA in all structures on every layer kind.

Keys are the argument names of the `pytest.mark.parametrize` decorators in PEFT's tests.
"""

import dataclasses
from typing import Any

import pytest
from peft import LoraConfig

from mtlora.adapter import MTLoraConfig
from mtlora.adapter.transforms import STRUCTURES

Kwargs = dict[str, Any]

# models of PEFT's tests: "MLP" has lin0 (10 -> 20) and lin1 (20 -> 2), "EmbConv1D" has emb, conv1d (5 -> 1) and lin0
# (PEFT's tests train with SGD at a learning rate of 0.5 on inputs up to 90 and expect every tensor to move by more than
# 1e-4 in three steps without overflow; the alphas are chosen so that this holds)
LAYERS: list[tuple[str, str, Kwargs]] = [
    ("Linear by regex", "MLP", {"target_modules": "lin0"}),
    ("Linear", "MLP", {"target_modules": ["lin0"]}),
    ("two Linear", "MLP", {"target_modules": ["lin0", "lin1"], "mtlora_alpha": 4, "mtlora_dropout": 0.1}),
    ("Linear and modules_to_save", "MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    (
        "Linear with patterns",
        "MLP",
        {"target_modules": ["lin0", "lin1"], "rank_pattern": {"lin1": 3}, "use_rslora": True, "mtlora_alpha": 1},
    ),
    ("fused Linear, block", "MLP", {"target_modules": ["lin0"], "fused_modules": {"lin0": [True, False, True, True]}}),
    (
        "fused Linear, joint",
        "MLP",
        {"target_modules": ["lin0", "lin1"], "fused_modules": {"lin0": [False, True]}, "fused_transform": "joint"},
    ),
    ("Conv1D", "EmbConv1D", {"target_modules": ["conv1d"]}),
    ("Embedding", "EmbConv1D", {"target_modules": ["emb"], "mtlora_alpha": 64}),
    ("Embedding and Conv1D", "EmbConv1D", {"target_modules": ["emb", "conv1d"], "mtlora_alpha": 64}),
]
CASES = [
    (f"{structure} {name}", model, MTLoraConfig, {"structure": structure, **kwargs})
    for structure in STRUCTURES
    for name, model, kwargs in LAYERS
]


def _pair(first: Kwargs, second: Kwargs) -> tuple[Kwargs, Kwargs]:
    return {"init_weights": False, **first}, {"init_weights": False, **second}


PAIRS: dict[str, tuple[Kwargs, Kwargs]] = {
    "same module": _pair({"target_modules": ["lin0"]}, {"target_modules": ["lin0"]}),
    "different modules": _pair({"target_modules": ["lin0"]}, {"target_modules": ["lin1"]}),
    "different structures": _pair(
        {"target_modules": ["lin0"], "structure": "icfm"}, {"target_modules": ["lin0"], "structure": "dtsm", "r": 16}
    ),
    "fused and plain": _pair(
        {"target_modules": ["lin0"], "structure": "ctcm", "fused_modules": {"lin0": [True, False]}},
        {"target_modules": ["lin0"], "structure": "none"},
    ),
}
PAIR_NAMES = ("test_name", "config0", "config1")
TABLES: dict[tuple[str, ...], list[Any]] = {
    ("test_name", "model_id", "config_cls", "config_kwargs"): CASES,
    ("test_name", "tuner_method", "config_cls", "config_kwargs_1", "config_kwargs_2"): [
        (name, "mtlora", MTLoraConfig, *pair) for name, pair in PAIRS.items()
    ],
    PAIR_NAMES: [(name, MTLoraConfig(**first), MTLoraConfig(**second)) for name, (first, second) in PAIRS.items()],
    ("config_class", "mandatory_kwargs"): [(MTLoraConfig, {"structure": name}) for name in STRUCTURES],
    ("config_class",): [MTLoraConfig],
    ("config_cls",): [MTLoraConfig],
}

# in test_quantization.py, on models of the architecture OPT
QUANTISED = [(MTLoraConfig, {"structure": name, "target_modules": ["q_proj", "v_proj"]}) for name in STRUCTURES]

# `LoraConfig` as the tests spell it -> `MTLoraConfig`
RENAMED = {"lora_alpha": "mtlora_alpha", "lora_dropout": "mtlora_dropout", "init_lora_weights": "init_weights"}
VALUES = {"gaussian": "identity", "lora_only": "mtlora_only"}


class LoraAsMTLora:
    """Stands in for `LoraConfig` in tests that use LoRA only as an example of a PEFT method."""

    def __new__(cls, **kwargs: Any) -> MTLoraConfig:  # type: ignore[misc]
        """Build the MTLoRA configuration with the same meaning; skip the test if there is none."""
        renamed = {RENAMED.get(name, name): value for name, value in kwargs.items()}
        unknown = sorted(set(renamed) - set(MTLoraConfig.__dataclass_fields__))
        if unknown:
            pytest.skip(f"uses the LoRA option {', '.join(unknown)}, which MTLoRA does not have")
        for name in {"init_weights", "bias"} & set(renamed):
            renamed[name] = VALUES.get(renamed[name], renamed[name])
        return MTLoraConfig(structure="ctcm", **renamed)


def translate(config: Any) -> Any:
    """Return the MTLoRA configuration for one of `LoraConfig`; leave other methods' alone."""
    if not isinstance(config, LoraConfig):
        return config
    default = LoraConfig()
    changed = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(LoraConfig)
        if getattr(config, field.name) != getattr(default, field.name)
    }
    return LoraAsMTLora(**{name: value for name, value in changed.items() if name != "runtime_config"})
