"""The model of a run: backbone, fresh head and adapter, each random start drawn from its own named stream."""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mtlora.adapter.layer import MTLoraLayer
from mtlora.adapter.matrices import with_current_names
from mtlora.adapter.transforms import STRUCTURES
from mtlora.base.errors import UserError
from mtlora.base.hashing import digest
from mtlora.base.streams import torch_stream
from mtlora.config.schema import RunConfig
from mtlora.plan.model_files import model_content
from mtlora.records.schema import Parameters
from mtlora.train.model.backbones import drop_unread_tokens, load_backbone
from mtlora.train.model.methods import MethodModel, add_method


def build_model(config: RunConfig, tokenizer: PreTrainedTokenizerBase, shared: bool = False) -> MethodModel:
    """Build the model of a run: pretrained backbone, fresh head, fresh adapter.

    The head depends on (seed, task, parameter name) and each adapter matrix on (seed, task, letter, module name) alone, so on
    one task and seed all methods share the head, and all methods of one rank share A. `shared`: see `fresh_backbone`.

    Raises:
        UserError: the weights cannot be loaded or differ from their checksum; the target set matches no module.
    """
    backbone = fresh_backbone(config, len(tokenizer), shared)
    reset_head(backbone, config.model.head, config.seed, config.task.name)
    return add_method(backbone, config)


_loaded: dict[str, PreTrainedModel] = {}


def fresh_backbone(config: RunConfig, vocabulary: int, shared: bool) -> PreTrainedModel:
    """Return a copy of a backbone; a process reads the weights only once.

    With `shared`, for runs that train together, only the head is copied and all other tensors are shared. A run alone gets copies
    of all tensors: the rounding of matrix products depends on their addresses, and a repeated run should get the same ones.
    """
    task = config.task
    key = digest(
        [asdict(config.model), model_content(config), task.kind, len(task.labels), vocabulary, config.train.precision]
    )
    if key not in _loaded:
        _loaded.clear()  # the previous backbone was used by runs that have ended
        _loaded[key] = load_backbone(config, vocabulary)
        if config.task.kind != "generation":
            drop_unread_tokens(_loaded[key])
    source = _loaded[key]
    # Not on a quantised backbone: bitsandbytes moves the scales of an 8-bit weight in the first forward pass.
    if not shared or config.model.quantization:
        return copy.deepcopy(source)
    own = {id(p) for name, p in source.named_parameters() if is_head(name, config.model.head)}
    return copy.deepcopy(source, {id(t): t for t in (*source.parameters(), *source.buffers()) if id(t) not in own})


def reset_head(backbone: PreTrainedModel, head: list[str], seed: int, task: str) -> None:
    """Give the head a fresh start, as in BERT: weights from N(0, initializer_range), biases 0, and the weights of norms 1.

    Each weight is drawn from a stream of its own, (seed, task, "head", parameter name).

    Raises:
        UserError: `head` matches no module of the backbone.
    """
    parameters = [(name, p) for name, p in backbone.named_parameters() if is_head(name, head)]
    if head and not parameters:
        raise UserError(f"model.head={head} matches no module of {type(backbone).__name__}: correct conf/model/")
    for name, parameter in parameters:
        if parameter.dim() > 1:
            std = getattr(backbone.config, "initializer_range", 0.02)  # the default of transformers
            nn.init.normal_(parameter, std=std, generator=torch_stream(seed, task, "head", name))
        else:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)


def set_output_bias(model: nn.Module, value: float) -> None:
    """Set the output bias of a regression head, its only bias with one element, to `value`.

    Raises:
        UserError: there is not exactly one such bias.
    """
    biases = [p for name, p in model.named_parameters() if name.endswith("bias") and p.requires_grad and p.numel() == 1]
    if len(biases) != 1:
        raise UserError("train.mean_bias=true needs a regression head with one output bias: set it to false")
    nn.init.constant_(biases[0], value)


def weights_file(config: RunConfig) -> str:
    """Return the name of the file in a run's folder that holds its trained weights."""
    return "model.safetensors" if config.adapter.full else "adapter_model.safetensors"


def load_parent(model: MethodModel, config: RunConfig, folder: Path) -> None:
    """Copy what a finished run has trained, except its head, into a fresh model of the same method and rank.

    Raises:
        UserError: the file is missing or unreadable, or its tensors are not exactly those of the model.
    """
    try:
        load_trained(model, folder / weights_file(config), leave_out=config.model.head)
    except UserError as error:
        raise UserError(f"init_from: {error}") from None


def load_trained(model: MethodModel, path: Path, leave_out: Sequence[str] = ()) -> None:
    """Copy the trained tensors of a file into a model, except those of the modules of `leave_out`.

    Raises:
        UserError: the file is missing or unreadable, or its tensors are not exactly those of the model.
    """
    try:
        saved = with_current_names(load_file(path))
    except Exception as error:  # OSError, or safetensors' own error for a damaged file
        raise UserError(f"cannot read {path} ({error}): train that run again") from None
    is_adapter = isinstance(model, PeftModel)
    start = get_peft_model_state_dict(model, save_embedding_layers=False) if is_adapter else _untied(model)
    saved, own = ({name: t for name, t in ts.items() if not is_head(name, leave_out)} for ts in (saved, start))
    if differing := sorted(set(saved) ^ set(own)):
        raise UserError(
            f"{path} does not fit this adapter: only one of the two has {differing[0]}: train that run again"
        )
    for name, tensor in own.items():
        if tensor.shape != saved[name].shape:
            raise UserError(f"{path} does not fit this adapter: {name} has another shape: train that run again")
    if is_adapter:
        set_peft_model_state_dict(model, start | saved)  # PEFT wants the head, too: the model's own
    else:
        model.load_state_dict(saved, strict=False)


def _untied(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a model as `save_pretrained` writes them: one that has several names, under the first."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor.detach()))
    return dict(found.values())


def is_head(name: str, head: Sequence[str]) -> bool:
    """Tell whether a parameter belongs to a module of the head."""
    return not set(name.split(".")).isdisjoint(head)


def count_parameters(model: nn.Module, head: Sequence[str]) -> Parameters:
    """Count parameters: `adapter` and `head` are trained; `total` also counts the frozen ones, but not a replaced head."""
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    in_head = sum(size for name, size in trained.items() if is_head(name, head))
    replaced = sum(
        p.numel()
        for m in model.modules()
        if isinstance(m, ModulesToSaveWrapper)
        for p in m.original_module.parameters()
    )
    # PEFT counts what weights of 4 bits stand for, not the bytes that hold them.
    everything = sum(p.numel() for p in model.parameters())
    if isinstance(model, PeftModel):
        everything = model.get_nb_trainable_parameters()[1]
    total = everything - replaced
    bound = bound_entries(model)
    return {"adapter": sum(trained.values()) - in_head - bound, "head": in_head, "total": total - bound}


def bound_entries(model: nn.Module) -> int:
    """Count the trained entries of T's factors that are no free parameters, such as those below a triangular T's diagonal."""
    bound = 0
    for layer in (m for m in model.modules() if isinstance(m, MTLoraLayer)):
        factors = [(n.split("."), p) for n, p in layer.named_parameters() if n.startswith(("mtlora_C.", "mtlora_D."))]
        for adapter, structure in layer.structure.items():
            free = STRUCTURES[structure].parameters
            own = [p for path, p in factors if path[1] == adapter and p.requires_grad]
            if free is not None and own:
                r = own[0].shape[-1]
                bound += sum(p.numel() for p in own) - own[0].numel() // r**2 * free(r)
    return bound
