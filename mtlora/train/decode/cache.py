"""The model of a beam search with its cache of keys and values, and the attention to it.

Sizes in shapes: N contexts of a batch, C contexts still open, W hypotheses per open context, V vocabulary, t generated tokens so
far, width of the longest prompt. A row is one hypothesis; the rows of a context are neighbours.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from mtlora.base.errors import UserError
from mtlora.train.model.attention import NAME

NEEDED = "beam search needs a model whose attention goes through the AttentionInterface of transformers, such as GPT-2"


def check_attention(model: Any) -> None:
    """Refuse a model whose attention cannot be replaced.

    Raises:
        UserError: the attention is not computed by `mtlora.train.model.attention`.
    """
    if getattr(model.config, "_attn_implementation", NAME) != NAME:
        raise UserError(f"{NEEDED}: {type(model).__name__} computes its own")


class CachedForward:
    """The model with its key-value cache: one call for the prompts, then a call for each further token of the rows."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], steps: int, pad_token_id: int) -> None:
        """Pad the prompts on the left, and size the cache for `steps` generated tokens."""
        self.model, self.steps, self.device = model, steps, model.device
        self.cache = Cache(layer_class_to_replicate=BeamLayer)
        self.layers: list[BeamLayer] = self.cache.layers  # type: ignore[assignment]
        width = max(map(len, prompts))
        self.ids = torch.tensor([[pad_token_id] * (width - len(p)) + list(p) for p in prompts], device=self.device)
        self.lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        self.mask: Tensor | None = None  # (N, width); None without padding, which allows faster attention
        if any(len(p) < width for p in prompts):
            self.mask = torch.arange(width, device=self.device) >= width - self.lengths[:, None]
        self.shape = (len(prompts), 1)  # (C, W) of the previous call
        # (rows, t): for each generated token in the cache, the row in which its keys and values were computed.
        self.origin = torch.empty(len(prompts), 0, dtype=torch.long, device=self.device)

    def prompts(self) -> Tensor:
        """Return the logits after the prompts, (N, V)."""
        positions = None if self.mask is None else (self.mask.cumsum(1) - 1).clamp(min=0)
        return self._run(self.ids, attention_mask=self.mask, position_ids=positions)

    def tokens(self, parents: Tensor, tokens: Tensor, contexts: Tensor) -> Tensor:
        """Append a token to each hypothesis and return the logits after it, (C * W, V).

        Args:
            parents: (C, W) rows of the previous call, which the hypotheses continue.
            tokens: (C, W).
            contexts: (C,) numbers of the contexts, all of which were part of the previous call.

        Raises:
            UserError: the model does not pass `attend` on to its attention.
        """
        t = self.origin.shape[1]
        self._move(parents)
        padding = None if self.mask is None else ~self.mask[contexts][:, None, None, None]

        def attend(layer: int, query: Tensor, scale: float | None) -> Tensor:
            return self.layers[layer].attend(query, scale, padding)

        positions = (self.lengths[contexts] + t).repeat_interleave(parents.shape[1])[:, None]
        logits = self._run(tokens.reshape(-1, 1), position_ids=positions, attend=attend)
        if not all(layer.attended for layer in self.layers):
            raise UserError(f"{NEEDED}: {type(self.model).__name__} does not pass its arguments on")
        return logits

    def _move(self, parents: Tensor) -> None:
        """Replace the rows of the cache by those of the parents, (C, W)."""
        rows, origin = parents.flatten(), self.origin[parents.flatten()]
        if parents.shape != self.shape or origin.shape[1] == 0:
            kept = None if len(parents) == self.shape[0] else parents[:, 0] // self.shape[1]
            for layer in self.layers:
                layer.regroup(rows, kept, self.steps)
        elif changed := (origin != self.origin).any(0).nonzero()[:1].tolist():
            # Tokens before the first that changes have the same keys and values in all rows.
            for layer in self.layers:
                layer.reorder(rows, changed[0][0])
        self.shape = (parents.shape[0], parents.shape[1])
        self.origin = torch.cat([origin, torch.arange(len(rows), device=self.device)[:, None]], 1)

    def _run(self, ids: Tensor, **arguments: Any) -> Tensor:
        """Return the logits of the last position, (rows, V), in float32 or higher precision."""
        logits = self.model(
            input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1, **arguments
        ).logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class BeamLayer(DynamicLayer):
    """The keys and values of a layer: for the prompts once per context, for generated tokens once per row.

    `DynamicLayer` repeats the prompt for every hypothesis and copies the whole cache for each token, and `reorder_cache` copies
    it again. Here each token is written in place, and only tokens that differ between the hypotheses move.
    """

    prompt: tuple[Tensor, Tensor]  # keys and values, (C, heads, width, size)
    own: list[Tensor]  # keys and values, (C * W, heads, room for all steps, size)
    length = 0  # generated tokens
    attended = False  # whether `attend` has been called

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the prompts (first call) or one token of each row; the attention uses the return value for the prompts only."""
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
        """Return the number of tokens of a row in the cache."""
        return self.prompt[0].shape[2] + self.length if self.is_initialized else 0

    def regroup(self, rows: Tensor, contexts: Tensor | None, room: int) -> None:
        """Keep the given rows, with room for all steps, and the given contexts (None: all of them)."""
        if contexts is not None:
            self.prompt = (self.prompt[0][contexts], self.prompt[1][contexts])
        for i, old in enumerate(self.own):
            buffer = old.new_empty(len(rows), old.shape[1], room, old.shape[3])
            buffer[:, :, : self.length] = old[:, :, : self.length].index_select(0, rows)
            self.own[i] = buffer

    def reorder(self, rows: Tensor, first: int) -> None:
        """Replace the tokens of each row, from number `first` on, by the tokens of the given rows."""
        for buffer in self.own:
            view = buffer[:, :, first : self.length]
            view[:] = view.index_select(0, rows)

    def attend(self, query: Tensor, scale: float | None, padding: Tensor | None) -> Tensor:
        """Return the attention of one query per row to its prompt and its generated tokens.

        For all hypotheses of a context one matrix product with the prompt's keys suffices, instead of one per row with a copy.

        Args:
            query: (C * W, g * heads, 1, size): g query heads for each head of the keys.
            scale: None is 1 / sqrt(size).
            padding: (C, 1, 1, 1, width), True at the padding of the prompts.

        Returns:
            The output, shaped as `query`.
        """
        self.attended = True
        prompt_keys, prompt_values = self.prompt
        keys, values = (buffer[:, :, : self.length] for buffer in self.own)
        rows, heads, _, size = keys.shape
        c, width = prompt_keys.shape[0], prompt_keys.shape[2]
        w = rows // c
        q = query.reshape(rows, heads, -1, size) * (scale if scale is not None else size**-0.5)
        g = q.shape[2]
        # (C, heads, W, g, width) for the prompt; the hypotheses and their g heads are the rows of one product
        together = q.view(c, w, heads, g, size).transpose(1, 2)
        scores = (together.reshape(c, heads, w * g, size) @ prompt_keys.mT).view(c, heads, w, g, -1)
        if padding is not None:
            scores = scores.masked_fill(padding, -math.inf)
        own = (q @ keys.mT).view(c, w, heads, g, -1).transpose(1, 2)
        weights = torch.cat([scores, own], -1)
        weights = weights.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
        of_prompt = (weights[..., :width].reshape(c, heads, w * g, width) @ prompt_values).view(c, heads, w, g, size)
        of_own = weights[..., width:].transpose(1, 2).reshape(rows, heads, g, -1) @ values
        return (of_prompt.transpose(1, 2).reshape(rows, heads, g, size) + of_own).reshape(query.shape)
