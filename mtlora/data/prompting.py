"""The tokens of data-to-text sentences: facts, end token, text, end token (LoRA, arXiv 2106.09685, its GPT-2 data)."""

from collections.abc import Sequence
from typing import Any

from mtlora.base.errors import UserError


def encode_sentences(
    contexts: Sequence[str], texts: Sequence[str], tokenizer: Any, max_length: int
) -> tuple[list[list[int]], list[int]]:
    """Return each sentence's tokens, cut on the right to `max_length`, and the number of prompt tokens."""
    rows, prompts = [], []
    written = token_ids(tokenizer, [" " + text for text in texts])
    for prompt, text in zip(encode_prompts(contexts, tokenizer), written, strict=True):
        rows.append([*prompt, *text, tokenizer.eos_token_id][:max_length])
        prompts.append(min(len(prompt), max_length))
    return rows, prompts


def encode_prompts(contexts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Return the prompt of each context: its tokens and the end token, after which a model writes the text.

    Raises:
        UserError: the tokenizer has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"{type(tokenizer).__name__} has no end token: choose a model made for generation")
    return [[*ids, tokenizer.eos_token_id] for ids in token_ids(tokenizer, list(contexts))]


def token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the tokens of each text, without special tokens."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return ids


def end_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that end a text: the end token, and the blank line where it is one token (50256, 628 in GPT-2)."""
    blank = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    return [tokenizer.eos_token_id, *(blank if len(blank) == 1 else [])]


def pad_token(tokenizer: Any) -> int:
    """Return the token that fills batches; a decoder without one uses its end token, which the mask hides."""
    found = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if found is None:
        raise UserError(
            "the tokenizer has neither a padding token nor an end token: choose a model whose tokenizer names one"
        )
    return int(found)
