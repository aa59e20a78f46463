"""Batched beam search with the semantics of LoRA's GPT-2 code, for causal language models of `transformers`.

It differs from `transformers.generate` in what decides the answer: the n-gram ban looks at generated tokens only and
comes before the log-softmax, and a hypothesis that ends leaves its place among the kept ones empty until the next step.
The search stops early only where that cannot change the answer.

Names of sizes in shapes: N contexts of a batch, C contexts still open, W hypotheses per open context (at most `beams`),
V vocabulary, t generated tokens so far. A row is one hypothesis; the rows of a context are neighbours.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers.cache_utils import Cache, DynamicLayer

from mtlora.base.errors import UserError
from mtlora.config.schema import DecodeConfig


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
        UserError: a prompt and its new tokens exceed the model's positions.
    """
    kept = [tuple(prompt[-decode.max_context :]) for prompt in prompts]
    # Longest first: neighbours need little padding, and a batch that does not fit the memory fails at once.
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
    length_penalty. Log-probabilities are float32 (float64 for a float64 model). Between equal scores the earlier one
    wins: first the step, then the hypothesis; between equal logits of one hypothesis `torch.topk` decides.

    Args:
        model: a causal language model, or a PeftModel of one; evaluation mode and autocast are the caller's.
        prompts: N lists of at least one token id; used whole.
        end_tokens: each of them ends a hypothesis.
        pad_token_id: fills shorter prompts on the left; masked, so its value cannot matter.

    Returns:
        N lists of at most `max_new_tokens` ids; an empty one if the ban left no hypothesis at all.

    Raises:
        UserError: a prompt and its new tokens exceed the model's positions.
    """
    check_positions(model, prompts, decode)
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
    best.offer(contexts, history, scores, t)  # what is still alive; of a settled context it cannot win
    return best.answers()


def ban_ngrams(logits: Tensor, history: Tensor, n: int) -> None:
    """Set to -inf, in place, each token that would complete an n-gram which its row already holds.

    Args:
        logits: (rows, V).
        history: (rows, t) generated tokens.
        n: length of the n-grams; 0 bans nothing.
    """
    t = history.shape[1]
    if n == 0 or t < n:
        return
    windows = history.unfold(1, n, 1)  # (rows, t - n + 1, n)
    repeats = (windows[..., :-1] == history[:, None, t - n + 1 :]).all(-1)  # all of none is true, as n = 1 needs
    # The minimum with -inf bans, the minimum with inf leaves alone: no data-dependent shape, hence no wait for a GPU.
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
    # The best of a context are among the best of its rows, so only those are normalised: no (C * W, V) copy.
    values, tokens = logits.topk(min(beams, logits.shape[1]), dim=1)
    floor = torch.finfo(logits.dtype).min  # a row without any allowed token: -inf, not NaN
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


def check_positions(model: Any, prompts: Sequence[Sequence[int]], decode: DecodeConfig) -> None:
    """Refuse prompts for which the model has too few positions."""
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, prompts))
    if positions is not None and longest + decode.max_new_tokens > positions:
        raise UserError(
            f"a context of {longest} tokens and decode.max_new_tokens={decode.max_new_tokens} exceed the model's "
            f"{positions} positions: lower decode.max_context ({decode.max_context}) or decode.max_new_tokens"
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
        """Offer the hypotheses whose last token is an end token; return the sums with theirs at -inf."""
        ended = (history[..., -1:] == self.ends).any(-1)
        self.offer(contexts, history, scores.masked_fill(~ended, -math.inf), history.shape[2] - 1)
        return scores.masked_fill(ended, -math.inf)

    def offer(self, contexts: Tensor, history: Tensor, scores: Tensor, length: int) -> None:
        """Replace the candidates that are beaten, strictly, by the best of each context's hypotheses.

        Args:
            contexts: (C,) numbers of the contexts.
            history: (C, W, t) generated tokens.
            scores: (C, W) sums of log-probabilities; -inf is no candidate.
            length: how many of the t tokens belong to the answer.
        """
        which = scores.argmax(1)  # the first of equal ones
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


class CachedForward:
    """The model with its key-value cache and padding: the prompts once, then one token per row and call."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], steps: int, pad_token_id: int) -> None:
        self.model, self.steps, self.device = model, steps, model.device
        self.cache = Cache(layer_class_to_replicate=BeamLayer)
        self.layers: list[BeamLayer] = self.cache.layers  # type: ignore[assignment]
        width = max(map(len, prompts))
        self.ids = torch.tensor([[pad_token_id] * (width - len(p)) + list(p) for p in prompts], device=self.device)
        self.lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        self.mask: Tensor | None = None  # (N, width); without padding none, which allows faster attention
        if any(len(p) < width for p in prompts):
            self.mask = torch.arange(width, device=self.device) >= width - self.lengths[:, None]
        self.shape = (len(prompts), 1)  # (C, W) of the call before
        # (rows, t): for each generated token in the cache, the row in which its keys and values were computed.
        self.origin = torch.empty(len(prompts), 0, dtype=torch.long, device=self.device)

    def prompts(self) -> Tensor:
        """Return the logits after the prompts, (N, V)."""
        positions = None if self.mask is None else (self.mask.cumsum(1) - 1).clamp(min=0)
        return self._run(self.ids, self.mask, positions)

    def tokens(self, parents: Tensor, tokens: Tensor, contexts: Tensor) -> Tensor:
        """Append a token to each hypothesis and return the logits after it, (C * W, V).

        Args:
            parents: (C, W) rows of the call before, which the hypotheses continue.
            tokens: (C, W).
            contexts: (C,) numbers of the contexts; none that was left out before.
        """
        rows = parents.flatten()
        t = self.origin.shape[1]
        origin = self.origin[rows]
        if parents.shape != self.shape or t == 0:
            kept = None if len(parents) == self.shape[0] else parents[:, 0] // self.shape[1]
            for layer in self.layers:
                layer.regroup(rows, kept, self.steps)
        elif changed := (origin != self.origin).any(0).nonzero()[:1].tolist():
            # Keys and values before the first change are the same tensors: they stay.
            for layer in self.layers:
                layer.reorder(rows, changed[0][0])
        self.shape = (parents.shape[0], parents.shape[1])
        self.origin = torch.cat([origin, torch.arange(len(rows), device=self.device)[:, None]], 1)
        positions = (self.lengths[contexts] + t).repeat_interleave(parents.shape[1])[:, None]
        attention = BeamAttention(self.layers, len(contexts), None if self.mask is None else self.mask[contexts])
        with attention:
            logits = self._run(tokens.reshape(-1, 1), None, positions)
        if attention.calls != len(self.layers):
            raise UserError("beam search needs a model whose attention is PyTorch's (attn_implementation=sdpa)")
        return logits

    def _run(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        logits = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class BeamLayer(DynamicLayer):
    """One layer's keys and values: those of the prompts once per context, those of generated tokens once per row.

    `DynamicLayer` repeats the prompt for every hypothesis and copies the whole cache for each token, and `reorder_cache` does
    once more; here a token is written in place, and only what differs between the hypotheses moves.
    """

    prompt: tuple[Tensor, Tensor]  # keys and values, (C, heads, width, size)
    own: list[Tensor]  # keys and values, (C * W, heads, room for all steps, size)
    length = 0  # generated tokens

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep the prompts (first call), or a token of each row; what is returned then is not used (see `BeamAttention`)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.prompt = (key_states, value_states)
            self.own = [new[:, :, :0] for new in self.prompt]
        else:
            for buffer, new in zip(self.own, (key_states, value_states), strict=True):
                buffer[:, :, self.length : self.length + 1] = new
            self.length += 1
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Return how many tokens a row has behind it."""
        return self.prompt[0].shape[2] + self.length if self.is_initialized else 0

    def regroup(self, rows: Tensor, contexts: Tensor | None, room: int) -> None:
        """Make the cache that of the given rows, with room for all steps, and of the given contexts (None: all stay)."""
        if contexts is not None:
            self.prompt = (self.prompt[0][contexts], self.prompt[1][contexts])
        for i, old in enumerate(self.own):
            buffer = old.new_empty(len(rows), old.shape[1], room, old.shape[3])
            buffer[:, :, : self.length] = old[:, :, : self.length].index_select(0, rows)
            self.own[i] = buffer

    def reorder(self, rows: Tensor, first: int) -> None:
        """Replace each row's tokens from number `first` on by those of the given rows."""
        for buffer in self.own:
            view = buffer[:, :, first : self.length]
            view[:] = view.index_select(0, rows)


class BeamAttention(TorchFunctionMode):
    """While active, answers the attention calls of one step, in the order of the layers, from their caches.

    The hypotheses of a context ask its prompt together, one matrix product instead of a product per row with a copy of the keys.
    """

    def __init__(self, layers: Sequence[BeamLayer], contexts: int, mask: Tensor | None) -> None:
        """Take the layers' caches and the prompts' mask, (C, width), True at tokens."""
        super().__init__()
        self.layers, self.contexts, self.calls = layers, contexts, 0
        self.mask = None if mask is None else ~mask[:, None, None, None]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace scaled dot product attention; let all others pass."""
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        layer = self.layers[self.calls]
        self.calls += 1
        return self._attend(layer, args[0], (kwargs or {}).get("scale"))

    def _attend(self, layer: BeamLayer, query: Tensor, scale: float | None) -> Tensor:
        """Return the attention of one query a row, shaped as `query`: (C * W, ..., size), g heads for each head of keys."""
        prompt_keys, prompt_values = layer.prompt
        keys, values = (buffer[:, :, : layer.length] for buffer in layer.own)
        rows, heads, _, size = keys.shape
        c, w = self.contexts, rows // self.contexts
        q = query.reshape(rows, heads, -1, size) * (scale if scale is not None else size**-0.5)
        g = q.shape[2]
        # (C, heads, W, g, width) for the prompt; the hypotheses and their g heads are the rows of one product
        together = q.view(c, w, heads, g, size).transpose(1, 2)
        scores = (together.reshape(c, heads, w * g, size) @ prompt_keys.mT).view(c, heads, w, g, -1)
        if self.mask is not None:
            scores = scores.masked_fill(self.mask, -math.inf)
        width = scores.shape[-1]
        own = (q @ keys.mT).view(c, w, heads, g, -1).transpose(1, 2)
        weights = (
            torch.cat([scores, own], -1).softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
        )
        of_prompt = (weights[..., :width].reshape(c, heads, w * g, width) @ prompt_values).view(c, heads, w, g, size)
        of_own = weights[..., width:].transpose(1, 2).reshape(rows, heads, g, -1) @ values
        return (of_prompt.transpose(1, 2).reshape(rows, heads, g, size) + of_own).reshape(query.shape)
