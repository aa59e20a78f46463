"""What training minimises: the task's loss over one batch, the same for every method."""

from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F

from mtlora.config import RunConfig


def batch_loss(config: RunConfig, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean loss of a batch, a scalar: over examples, or over target tokens for a generation task."""
    if config.task.kind != "generation":
        loss: torch.Tensor = model(**batch).loss
        return loss
    total, count = completion_loss(model, batch, config.train.label_smoothing)
    return total / max(1, count)


class Objective(nn.Module):
    """`batch_loss` as a module: several processes average the gradients of what a module's forward returns."""

    def __init__(self, config: RunConfig, model: nn.Module):
        super().__init__()
        self.config, self.model = config, model

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean loss of a batch, a scalar."""
        return batch_loss(self.config, self.model, batch)


def completion_loss(
    model: Any, batch: dict[str, torch.Tensor], label_smoothing: float = 0.0
) -> tuple[torch.Tensor, int]:
    """Return the summed cross-entropy of the tokens after each prompt, and how many there are.

    With smoothing e the target is (1 - e) times the token plus e times the uniform distribution over the vocabulary (LoRA,
    arXiv 2106.09685, its GPT-2 code). Padding and the prompt count nothing. Logits are computed for target positions only: the
    vocabulary is the largest dimension there is.

    Args:
        model: a causal language model, or a PEFT model around one.
        batch: `input_ids` and `attention_mask`, (batch, width), right-padded; `labels` (batch,): the prompt's tokens.
        label_smoothing: e, from 0 to below 1.
    """
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    ids, mask = batch["input_ids"], batch["attention_mask"]
    position = torch.arange(1, ids.shape[1], device=ids.device)
    targets = (position >= batch["labels"][:, None]) & mask[:, 1:].bool()  # (batch, width - 1)
    hidden = causal.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
    logits = causal.get_output_embeddings()(hidden[targets]).float()
    wanted = ids[:, 1:][targets]
    return F.cross_entropy(logits, wanted, label_smoothing=label_smoothing, reduction="sum"), len(wanted)
