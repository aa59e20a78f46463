"""The tests of PEFT's suite that cannot apply to MTLoRA, each with the reason."""

from fnmatch import fnmatchcase

import pytest

LORA_NAMES = "reads LoRA's parameters or class names (lora_A, LoraModel) from the model"

NOT_MIXED = "MTLoRA does not mix with other methods in one model"

# patterns over "file::Class::test"
REASONS: dict[str, str] = {
    "test_config.py::TestLoraNestedConfigRoundTrip::*": "about configurations that nest in LoraConfig",
    "test_custom_models.py::TestDynamicDispatch::*": "about LoRA's registry of custom layer classes",
    "test_custom_models.py::TestLayerRepr::*": "compares the printed form of LoRA's layers",
    "test_custom_models.py::TestMultiRankAdapter::*": LORA_NAMES,
    "test_custom_models.py::TestPeftCustomModel::test_*add_weighted_adapter*": "MTLoRA has no add_weighted_adapter",
    "test_custom_models.py::TestPeftCustomModel::test_*_merging_adapters*": "MTLoRA has no add_weighted_adapter",
    "test_custom_models.py::*test_add_adapter_rejects_duplicate_name_without_mutation*True*": NOT_MIXED,
    "test_custom_models.py::TestRequiresGrad::test_requires_grad_*": LORA_NAMES,
    "test_custom_models.py::TestRequiresGrad::test_loading_adapter_preserves_custom_requires_grad": LORA_NAMES,
    "test_helpers.py::TestDisableInputDtypeCasting::*": LORA_NAMES,
    "test_helpers.py::*diffusers*": "needs diffusers",
    "test_helpers.py::TestCheckIsPeftModel::test_valid_hub_model": "needs the hub",
    "test_initialization.py::TestLoraInitialization::*": "about LoRA's own initialisations",
    "test_initialization.py::TestEvaInitialization::*": "about LoRA's own initialisations",
    "test_initialization.py::TestHotSwapping::*": "PEFT hot-swaps LoRA only",
    "test_initialization.py::*PeftMixedModel*": NOT_MIXED,
    "test_low_level_api.py::*stable_diffusion*": "needs diffusers",
    "test_low_level_api.py::TestLowLevelFunctional::test_inject_adapter_in_model": LORA_NAMES,
    "test_low_level_api.py::TestLowLevelFunctional::test_modules_to_save": LORA_NAMES,
    "test_low_level_api.py::*test_base_model_module_named_like_peft_prefix*": "has a table of prefixes without ours",
    "test_low_level_api.py::TestStateDictFsdpShapeValidation::*unsharded*": LORA_NAMES,
    "test_tuners_utils.py::*test_adapter_model_type_small": LORA_NAMES,
    "test_tuners_utils.py::*test_mixed_model_raises": NOT_MIXED,
    "test_tuners_utils.py::*test_model_status_with_modules_to_save": "expects LoRA's number of parameters",
    "test_tuners_utils.py::*test_module_type_small": LORA_NAMES,
    "test_tuners_utils.py::*test_nb_params_small": "expects LoRA's number of parameters",
    "test_tuners_utils.py::*test_peft_types_small": LORA_NAMES,
    "test_tuners_utils.py::TestTunerStateDictKeyPrefixes::test_prefixes_*": LORA_NAMES,
}


def reason_to_deselect(item: pytest.Item) -> str | None:
    """Return why a test is left out, or None if it runs."""
    if "large_model" in getattr(item, "fixturenames", ()):
        return "its model adapts a Conv2d, which MTLoRA refuses"
    name = item.nodeid.removeprefix("tests/")
    return next((reason for pattern, reason in REASONS.items() if fnmatchcase(name, pattern)), None)
