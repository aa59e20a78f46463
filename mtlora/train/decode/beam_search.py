"""Batched beam search with the semantics of LoRA's GPT-2 code, for causal language models of `transformers`.

It differs from `generate` of transformers in two points that change the answer: the n-gram ban applies to generated tokens only
and comes before the log-softmax, and a hypothesis that ends leaves its place among the beams empty until the next step.
The search stops early only if that cannot change the answer.

Names of sizes in shapes: N contexts of a batch, C contexts still open, W hypotheses per open context (at most `beams`),
V vocabulary, t generated tokens so far. A row is one hypothesis; the rows of a context are neighbours.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlora.base.errors import UserError
from mtlora.config.schema import DecodeConfig
from mtlora.train.decode.cache import CachedForward, check_attention

# Settings of models in which some layers attend only to the latest tokens.
WINDOWS = ("sliding_window", "attention_chunk_size")


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    decode: DecodeConfig,
    end_tokens: Sequence[int],
    pad_token_id: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[int]]:
    """Return the generated tokens of each prompt, in the order of the prompts; equal prompts are decoded once.

    Args:
        model: as in `beam_search`; the caller has put it into evaluation mode.
        prompts: token ids; the last `decode.max_context` of each are kept.
        on_progress: called with (different prompts done, different prompts in all) after each batch.

    Raises:
        UserError: as `check_model`.
    """
    kept = [tuple(prompt[-decode.max_context :]) for prompt in prompts]
    # Longest first: a batch needs little padding, and if the memory is too small, the first batch fails.
    order = sorted(set(kept), key=lambda prompt: (-len(prompt), prompt))
    answers: dict[tuple[int, ...], list[int]] = {}
    for start in range(0, len(order), decode.batch_size):
        batch = order[start : start + decode.batch_size]
        answers |= zip(batch, beam_search(model, batch, decode, end_tokens, pad_token_id), strict=True)
        on_progress(len(answers), len(order))
    return [list(answers[prompt]) for prompt in kept]


@torch.inference_mode()
def beam_search(
    model: Any,
    prompts: Sequence[Sequence[int]],
    decode: DecodeConfig,
    end_tokens: Sequence[int],
    pad_token_id: int,
) -> list[list[int]]:
    """Decode one batch on the model's device; return each prompt's best hypothesis without its end token.

    The score of a hypothesis is (sum of log-probabilities) / (generated tokens, the end token included) **
    length_penalty. Log-probabilities are float32 (float64 for a float64 model). Among equal scores the earlier step wins, then
    the earlier hypothesis; among equal logits of one hypothesis `torch.topk` decides.

    Args:
        model: a causal language model, or a PeftModel of one; the caller sets evaluation mode and autocast.
        prompts: N lists of at least one token id; not truncated.
        end_tokens: each of them ends a hypothesis.
        pad_token_id: fills shorter prompts on the left; masked, so its value does not matter.

    Returns:
        N lists of at most `max_new_tokens` ids; an empty list if the ban left no hypothesis.

    Raises:
        UserError: as `check_model`.
    """
    check_model(model, prompts, decode)
    forward = CachedForward(model, prompts, decode.max_new_tokens, pad_token_id)
    logits = forward.prompts()
    best = Best(len(prompts), decode, end_tokens, logits)
    contexts = torch.arange(len(prompts), device=logits.device)  # (C,) numbers of the open contexts
    scores = logits.new_zeros(len(prompts), 1)  # (C, W) sums of log-probabilities; -inf: dead
    history = contexts.new_empty(len(prompts), 1, 0)  # (C, W, t)
    for t in range(1, decode.max_new_tokens + 1):
        ban_ngrams(logits, history.flatten(0, 1), decode.no_repeat_ngram)
        scores, parents, tokens = best_continuations(logits, scores, decode.beams)
        history = torch.cat([history.flatten(0, 1)[parents], tokens[..., None]], 2)
        scores = best.take_ended(contexts, history, scores)
        is_open = (~settled(best.score[contexts], scores.amax(1), decode)).nonzero()[:, 0]
        if t == decode.max_new_tokens or len(is_open) == 0:
            break
        contexts, scores, history, parents = (tensor[is_open] for tensor in (contexts, scores, history, parents))
        logits = forward.tokens(parents, history[..., -1], contexts)
    best.offer(contexts, history, scores, t)  # living hypotheses; those of a settled context cannot win
    return best.answers()


def ban_ngrams(logits: Tensor, history: Tensor, n: int) -> None:
    """Set to -inf, in place, each token that would complete an n-gram that its row already contains.

    Args:
        logits: (rows, V).
        history: (rows, t) generated tokens.
        n: length of the n-grams; 0 bans nothing.
    """
    t = history.shape[1]
    if n == 0 or t < n:
        return
    windows = history.unfold(1, n, 1)  # (rows, t - n + 1, n)
    repeats = (windows[..., :-1] == history[:, None, t - n + 1 :]).all(-1)  # n = 1: `all` of nothing is True
    # The minimum with -inf bans a token, with inf it keeps it. No shape depends on the data, so a GPU need not synchronise.
    limits = torch.full_like(repeats, math.inf, dtype=logits.dtype).masked_fill_(repeats, -math.inf)
    logits.scatter_reduce_(1, windows[..., -1], limits, "amin")


def best_continuations(logits: Tensor, scores: Tensor, beams: int) -> tuple[Tensor, Tensor, Tensor]:
    """Select the best continuations of each context over all its hypotheses and the vocabulary.

    Args:
        logits: (C * W, V), after the ban.
        scores: (C, W) sums of log-probabilities so far.

    Returns:
        Scores, parents (rows of `logits`) and tokens of the kept continuations, each (C, W'), best first. W' is `beams`
        unless there are fewer continuations, which happens in the first steps with a vocabulary below `beams`.
    """
    # The best of a context are among the best of its rows, so only these are normalised, without a copy of (C * W, V).
    values, tokens = logits.topk(min(beams, logits.shape[1]), dim=1)
    floor = torch.finfo(logits.dtype).min  # gives -inf, not NaN, for a row without any allowed token
    values = values - logits.logsumexp(1, keepdim=True).clamp(min=floor)
    c, w = scores.shape
    totals = (values.view(c, w, -1) + scores[..., None]).flatten(1)
    # A stable sort, unlike topk, keeps the order of equal scores; there are at most beams ** 2 of them.
    totals, chosen = totals.sort(dim=1, descending=True, stable=True)
    chosen = chosen[:, :beams] + torch.arange(c, device=logits.device)[:, None] * totals.shape[1]
    return totals[:, :beams], chosen // values.shape[1], tokens.flatten()[chosen]


def settled(best: Tensor, live: Tensor, decode: DecodeConfig) -> Tensor:
    """Tell which contexts are done: their best finished score is at least what any living hypothesis can still reach.

    Log-probabilities are at most 0, so a sum can only fall, and a sum <= 0 scores highest at the greatest length.

    Args:
        best: (C,) best finished scores; -inf if nothing has finished.
        live: (C,) greatest sum of log-probabilities of the living hypotheses; -inf if all are dead.
    """
    return best >= live / decode.max_new_tokens**decode.length_penalty


def check_model(model: Any, prompts: Sequence[Sequence[int]], decode: DecodeConfig) -> None:
    """Refuse a model that cannot decode these prompts.

    Raises:
        UserError: a prompt and its new tokens exceed the model's positions or its attention window, or the model's attention
            cannot be replaced by `BeamLayer.attend`.
    """
    check_attention(model)
    longest = max(map(len, prompts))
    tokens = f"a context of {longest} tokens and decode.max_new_tokens={decode.max_new_tokens}"
    lower = f"lower decode.max_context ({decode.max_context}) or decode.max_new_tokens"
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and longest + decode.max_new_tokens > positions:
        raise UserError(f"{tokens} exceed the model's {positions} positions: {lower}")
    for name in WINDOWS:
        window = getattr(model.config, name, None)
        if window and longest + decode.max_new_tokens > window:
            raise UserError(
                f"{tokens} exceed the model's {name} of {window}, and beam search attends to all tokens: {lower}"
            )


class Best:
    """The best candidate of each context so far."""

    def __init__(self, n: int, decode: DecodeConfig, end_tokens: Sequence[int], like: Tensor) -> None:
        self.penalty = decode.length_penalty
        self.ends = torch.tensor(list(end_tokens), device=like.device)
        self.score = like.new_full((n,), -math.inf)
        self.tokens = torch.zeros(n, decode.max_new_tokens, dtype=torch.long, device=like.device)
        self.length = torch.zeros(n, dtype=torch.long, device=like.device)

    def take_ended(self, contexts: Tensor, history: Tensor, scores: Tensor) -> Tensor:
        """Offer the hypotheses whose last token is an end token; return the sums of all, with -inf for the ended ones."""
        ended = (history[..., -1:] == self.ends).any(-1)
        self.offer(contexts, history, scores.masked_fill(~ended, -math.inf), history.shape[2] - 1)
        return scores.masked_fill(ended, -math.inf)

    def offer(self, contexts: Tensor, history: Tensor, scores: Tensor, length: int) -> None:
        """Replace each context's candidate by its best hypothesis if that has a strictly higher score.

        Args:
            contexts: (C,) numbers of the contexts.
            history: (C, W, t) generated tokens.
            scores: (C, W) sums of log-probabilities; -inf for a hypothesis that is not offered.
            length: the number of tokens, of t, that belong to the answer.
        """
        which = scores.argmax(1)  # the first among equals
        score = scores.gather(1, which[:, None])[:, 0] / history.shape[2] ** self.penalty
        better = (score > self.score[contexts]).nonzero()[:, 0]
        rows = contexts[better]
        self.score[rows] = score[better]
        self.length[rows] = length
        self.tokens[rows, :length] = history[better, which[better], :length]

    def answers(self) -> list[list[int]]:
        """Return each context's tokens."""
        pairs = zip(self.tokens.tolist(), self.length.tolist(), strict=True)
        return [tokens[:length] for tokens, length in pairs]
