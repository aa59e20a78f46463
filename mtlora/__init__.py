"""MTLoRA as a PEFT method, and the harness that reproduces its benchmarks (arXiv 2403.07440)."""

from typing import TYPE_CHECKING, Any

from mtlora.base.extras import is_command, require_harness

if TYPE_CHECKING:
    from mtlora.adapter import MTLoraConfig, MTLoraModel, save_as_lora

__all__ = ["MTLoraConfig", "MTLoraModel", "__version__", "save_as_lora"]

__version__ = "0.1.0"

if is_command():  # checked here, before the command's own imports fail
    require_harness()


def __getattr__(name: str) -> Any:
    """Import the adapter on first use (PEP 562): it needs torch, which most entry points of this package do not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mtlora import adapter

    return getattr(adapter, name)
