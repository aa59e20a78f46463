"""Decoding after a data-to-text run: the test contexts, with the trained adapter merged."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from peft import PeftModel
from torch import nn

from mtlora.adapter.layer import MTLoraLayer
from mtlora.base.processes import gather, own_rows
from mtlora.config.schema import RunConfig
from mtlora.data.batches import sample_rows
from mtlora.data.prompting import encode_prompts, end_tokens, pad_token
from mtlora.data.sources import load_contexts
from mtlora.records.predictions import Context
from mtlora.train.decode.beam_search import check_model, generate
from mtlora.train.objectives import base_model


def prepare_contexts(config: RunConfig, model: nn.Module, tokenizer: Any) -> list[Context]:
    """Return the contexts of the test split that a run decodes: all, or a fixed sample of `decode.limit_contexts`.

    Raises:
        UserError: as `load_contexts` and `check_model`; called before training, so that the run fails early.
    """
    contexts = load_contexts(config.task, config.data)
    rows = sample_rows(len(contexts), config.decode.limit_contexts, "contexts", config.task.name)
    chosen = [contexts[row] for row in rows]
    prompts = encode_prompts([context.facts for context in chosen], tokenizer)
    check_model(model, [prompt[-config.decode.max_context :] for prompt in prompts], config.decode)
    return chosen


def decode(
    config: RunConfig,
    model: nn.Module,
    tokenizer: Any,
    contexts: Sequence[str],
    on_progress: Callable[[int, int], None],
) -> list[str]:
    """Return a text for each context, by beam search; see `merged` for LoRA and MTLoRA."""
    numbers = own_rows(range(len(contexts)))
    prompts = encode_prompts([contexts[number] for number in numbers], tokenizer)
    model.eval()
    # Always in fp32, whatever `train.precision`, because bf16 has too many ties between the scores of hypotheses. Accelerate
    # wraps the forward of the PEFT model in autocast, but not the forward of its base model.
    with merged(model):
        ids = generate(
            base_model(model), prompts, config.decode, end_tokens(tokenizer), pad_token(tokenizer), on_progress
        )
    texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return [text for _, text in sorted(gather(zip(numbers, texts, strict=True)))]


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Merge LoRA or MTLoRA during the block; other methods, and all on a quantised backbone, stay as they are.

    A quantised weight would be rounded again. Afterwards the base weights, which other runs may share, are restored bit for bit.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, MTLoraLayer)]
    if any(layer.quantization_backend is not None for layer in layers):
        layers = []
    weights: list[Any] = [layer.get_base_layer().weight for layer in layers]
    kept = [weight.data for weight in weights]
    try:
        for weight in weights:
            weight.data = weight.data.clone()
        if layers:
            cast(PeftModel, model).merge_adapter()
        yield
    finally:
        for weight, data in zip(weights, kept, strict=True):
            weight.data = data
        for layer in layers:
            layer.merged_adapters.clear()
