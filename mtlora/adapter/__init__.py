"""MTLoRA (arXiv 2403.07440) as a PEFT method: ``dW = (alpha / r) B T A`` with a trainable matrix T in the middle.

Importing this package registers the method with PEFT, so that `get_peft_model`, `PeftModel.from_pretrained` and the
``AutoPeftModel*`` classes accept it.
"""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from mtlora.adapter.config import MTLoraConfig
from mtlora.adapter.export import save_as_lora
from mtlora.adapter.layer import MTLoraLayer
from mtlora.adapter.model import MTLoraModel
from mtlora.adapter.peft_type import MTLORA

__all__ = ["MTLoraConfig", "MTLoraLayer", "MTLoraModel", "save_as_lora"]

if MTLORA not in PEFT_TYPE_TO_CONFIG_MAPPING:  # PEFT refuses to register a method twice, as a module reload would
    register_peft_method(name="mtlora", config_cls=MTLoraConfig, model_cls=MTLoraModel, prefix=MTLoraModel.prefix)
