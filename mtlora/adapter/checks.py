"""What MTLoRA can do with a module: adapt it, merge into its weight, change its output in place."""

from peft.utils.quantization_utils import QuantizationBackend
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers.pytorch_utils import Conv1D

from mtlora.adapter.quantised import is_quantised


def reason_not_to_adapt(base: nn.Module, parent: nn.Module, backend: QuantizationBackend | None) -> str | None:
    """Return why a module cannot be adapted, or None if it can.

    Args:
        base: The module.
        parent: The module that contains it.
        backend: Of its quantised weight, if there is one (`quantised.backend_of`).
    """
    if isinstance(parent, nn.MultiheadAttention):
        return "nn.MultiheadAttention reads the weight of its projections directly and would skip the adapter"
    if not isinstance(base, nn.Linear | Conv1D | nn.Embedding):
        return "only nn.Linear, transformers' Conv1D and nn.Embedding are supported"
    if backend is None and is_quantised(base.weight):
        return "of the quantised layers only nn.Linear of bitsandbytes (8 and 4 bits) and of torchao are supported"
    if isinstance(base, nn.Embedding) and base.max_norm is not None:
        return "an embedding with max_norm rescales its weight, so the update could not be merged"
    return None


def reason_not_to_merge(base: nn.Module, backend: QuantizationBackend | None) -> str | None:
    """Return why no update can be added to the weight of an adapted module, or None if it can; arguments as above."""
    if is_parametrized(base, "weight"):  # as by `weight_norm`: the weight is computed anew in each forward pass
        return "The base weight is parametrized: remove the parametrization before merging."
    quantised = is_quantised(base.weight)  # type: ignore[arg-type]
    if backend is None and quantised:  # since the adapter was made
        return "The base weight is quantised: the update cannot be added to it."
    if backend is not None and not quantised:  # bitsandbytes quantises it then
        return "The base weight is not quantised yet: move the model to its device before merging."
    if backend is not None and not backend.supports_merge:
        return (
            "The base weight is torchao's, and only transformers' TorchAoConfig says how to quantise it again: load the model "
            "with `quantization_config=TorchAoConfig(...)` to merge."
        )
    return None


def check_adapter_names(adapter_names: list[str], rows: int, merged: bool) -> None:
    """Check the argument `adapter_names` of a layer for an input of `rows` rows.

    Raises:
        ValueError: The number of names differs from the number of rows, or adapters are merged.
    """
    if rows != len(adapter_names):
        raise ValueError(
            "Length of `adapter_names` should be the same as the number of inputs, but got "
            f"{len(adapter_names)} and {rows} respectively."
        )
    if merged:
        raise ValueError(
            "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
        )


def may_change_output(base: nn.Module) -> bool:
    """Tell whether updates may be added in place to the tensor that a base layer returns for an input (rows, in).

    A plain linear layer keeps its input for the backward pass, not its output, and for two dimensions the output is
    not a view of another tensor. A hook, however, may keep the output.
    """
    hooked = base._forward_hooks or base._backward_hooks or base._backward_pre_hooks
    return type(base) is nn.Linear and not hooked
