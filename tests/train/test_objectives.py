"""The loss of a data-to-text batch against the formula written out, and what must not change it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builtin_text.tokenizers import byte_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from mtlora.data.encoding import Encoded, collate
from mtlora.data.prompting import encode_sentences, end_tokens, pad_token
from mtlora.plan.cell import compose_cell
from mtlora.train.batches import collated, loss_shares
from mtlora.train.evaluation import RunData
from mtlora.train.model.build import build_model
from mtlora.train.objectives import batch_loss, completion_loss


def decoder(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=2, n_head=2, n_positions=64))
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=300, max_position_embeddings=64, **sizes))
    return model.double().eval()


def encoded(*pairs: tuple[str, str], max_length: int = 64) -> Encoded:
    rows, prompts = encode_sentences([c for c, _ in pairs], [t for _, t in pairs], byte_tokenizer(), max_length)
    offsets = np.cumsum([0, *map(len, rows)])
    return Encoded(np.concatenate([np.asarray(r, np.int32) for r in rows]), None, offsets, np.asarray(prompts))


def batch_of(data: Encoded, rows: list[int], width: int = 0) -> dict[str, torch.Tensor]:
    if width:
        return collate(data, np.asarray(rows), 7, "max_length", width)
    return collate(data, np.asarray(rows), 7, "longest", 64)


PAIRS = (("a : b : c", "A is c."), ("x : y : z | x : v : w", "X."), ("s : r : o", "S has o and more."))


def test_rows_are_facts_end_text_end() -> None:
    tokenizer = byte_tokenizer()
    rows, prompts = encode_sentences(["a : b"], ["Yes."], tokenizer, 64)
    assert [tokenizer.decode([token]) for token in rows[0]] == [*"a : b", "<|endoftext|>", *" Yes.", "<|endoftext|>"]
    assert prompts == [6]
    assert encode_sentences(["a : b"], ["Yes."], tokenizer, 8) == ([rows[0][:8]], [6])
    assert encode_sentences(["a : b"], ["Yes."], tokenizer, 4) == ([rows[0][:4]], [4])  # nothing to learn is left
    assert end_tokens(tokenizer) == [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("ĊĊ")]
    assert pad_token(tokenizer) == tokenizer.eos_token_id


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_loss_is_the_formula_by_hand(kind: str, smoothing: float) -> None:
    model, data = decoder(kind), encoded(*PAIRS)
    terms = []
    for row in range(3):
        ids = data.input_ids[data.offsets[row] : data.offsets[row + 1]].tolist()
        logits = model(input_ids=torch.tensor([ids])).logits[0].tolist()  # alone: no padding
        for place in range(int(data.labels[row]), len(ids)):  # every token of the text, and the end token
            scores = logits[place - 1]
            norm = math.log(sum(math.exp(score) for score in scores))
            log_p = [score - norm for score in scores]
            uniform = -sum(log_p) / len(log_p)
            terms.append((1 - smoothing) * -log_p[ids[place]] + smoothing * uniform)
    total, count = completion_loss(model, batch_of(data, [0, 1, 2]), smoothing)
    assert count == len(terms) == sum(len(text) + 2 for _, text in PAIRS)
    assert total.item() == pytest.approx(sum(terms), rel=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_padding_changes_nothing(kind: str) -> None:
    model, data = decoder(kind), encoded(*PAIRS)
    parts = [completion_loss(model, batch_of(data, [row]), 0.1) for row in range(3)]
    for width in (0, 50, 64):
        total, count = completion_loss(model, batch_of(data, [2, 0, 1], width), 0.1)
        assert count == sum(n for _, n in parts)
        assert total.item() == pytest.approx(sum(t.item() for t, _ in parts), rel=1e-6)


def test_a_batch_without_any_text_has_loss_zero() -> None:
    data = encoded(*PAIRS, max_length=4)
    total, count = completion_loss(decoder("gpt2"), batch_of(data, [0, 1, 2]))
    assert (total.item(), count) == (0.0, 0)


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    config = compose_cell(["task=dart", "model=tiny_gpt2", "train.accumulation=2", f"results={tmp_path}"]).config
    model = build_model(config, byte_tokenizer()).double().eval()
    data = RunData(encoded(*PAIRS), np.arange(3), {}, pad_token_id=7)
    group = [np.asarray([0, 2]), np.asarray([1])]
    halves = [
        batch_loss(config, model, batch) * share
        for batch, share in zip(collated(config, data, group), loss_shares(config, data, group), strict=True)
    ]
    whole = batch_loss(config, model, batch_of(data.train, [0, 1, 2]))
    assert sum(halves).item() == pytest.approx(whole.item(), rel=1e-6)
