"""The model of a beam search with its cache of keys and values, and the attention to it.

Names of sizes in shapes: N contexts of a batch, C contexts still open, W hypotheses per open context, V vocabulary, t generated
tokens so far, and width, that of the longest prompt. A row is one hypothesis; the rows of a context are neighbours.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from mtlora.base.errors import UserError
from mtlora.train.model.attention import NAME

NEEDED = (
    "beam search needs a model whose attention goes through the AttentionInterface of transformers, as that of GPT-2"
)


def check_attention(model: Any) -> None:
    """Refuse a model whose attention cannot be replaced.

    Raises:
        UserError: it is not computed by `mtlora.train.model.attention`.
    """
    if getattr(model.config, "_attn_implementation", NAME) != NAME:
        raise UserError(f"{NEEDED}: {type(model).__name__} computes its own")


class CachedForward:
    """The model with its key-value cache and padding: the prompts once, then one token per row and call."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], steps: int, pad_token_id: int) -> None:
        """Pad the prompts on the left, and take the number of steps for which the cache gets room."""
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
        return self._run(self.ids, attention_mask=self.mask, position_ids=positions)

    def tokens(self, parents: Tensor, tokens: Tensor, contexts: Tensor) -> Tensor:
        """Append a token to each hypothesis and return the logits after it, (C * W, V).

        Args:
            parents: (C, W) rows of the call before, which the hypotheses continue.
            tokens: (C, W).
            contexts: (C,) numbers of the contexts; none that was left out before.

        Raises:
            UserError: the model does not compute its attention where it is replaced.
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
        """Make the rows of the cache those of the parents, (C, W)."""
        rows, origin = parents.flatten(), self.origin[parents.flatten()]
        if parents.shape != self.shape or origin.shape[1] == 0:
            kept = None if len(parents) == self.shape[0] else parents[:, 0] // self.shape[1]
            for layer in self.layers:
                layer.regroup(rows, kept, self.steps)
        elif changed := (origin != self.origin).any(0).nonzero()[:1].tolist():
            # Keys and values before the first change are the same tensors: they stay.
            for layer in self.layers:
                layer.reorder(rows, changed[0][0])
        self.shape = (parents.shape[0], parents.shape[1])
        self.origin = torch.cat([origin, torch.arange(len(rows), device=self.device)[:, None]], 1)

    def _run(self, ids: Tensor, **arguments: Any) -> Tensor:
        """Return the logits of the last position in at least float32, (rows, V)."""
        logits = self.model(
            input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1, **arguments
        ).logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class BeamLayer(DynamicLayer):
    """One layer's keys and values: those of the prompts once per context, those of generated tokens once per row.

    `DynamicLayer` repeats the prompt for every hypothesis and copies the whole cache for each token, and `reorder_cache` does
    so once more; here a token is written in place, and only tokens that differ between the hypotheses move.
    """

    prompt: tuple[Tensor, Tensor]  # keys and values, (C, heads, width, size)
    own: list[Tensor]  # keys and values, (C * W, heads, room for all steps, size)
    length = 0  # generated tokens
    attended = False  # whether `attend` has been called

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep the prompts (first call), or a token of each row; the return value counts for the prompts only."""
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

    def attend(self, query: Tensor, scale: float | None, padding: Tensor | None) -> Tensor:
        """Return the attention of one query a row to its prompt and its generated tokens.

        The hypotheses of a context ask its prompt together, in one matrix product instead of one per row with a copy of the keys.

        Args:
            query: (C * W, g * heads, 1, size): g heads for each head of the keys.
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
