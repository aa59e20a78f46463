"""The loss of a task over one batch, which is the same for every method."""

from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F

from mtlora.config.schema import RunConfig


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
    """Return the summed cross-entropy of the tokens after each prompt, and the number of these tokens.

    With smoothing e the target is (1 - e) times the token plus e times the uniform distribution over the vocabulary (LoRA,
    arXiv 2106.09685, its GPT-2 code). Padding and prompt are left out. Logits are computed at target
    positions only, because the vocabulary is the largest dimension.

    Args:
        model: a causal language model, or a PEFT model around one.
        batch: `input_ids` and `attention_mask`, (batch, width), right-padded; `labels` (batch,): the prompt's tokens.
        label_smoothing: e, from 0 to below 1.
    """
    logits, wanted, _ = _completion_logits(model, batch)
    return F.cross_entropy(logits, wanted, label_smoothing=label_smoothing, reduction="sum"), len(wanted)


def run_losses(config: RunConfig, model: nn.Module, batch: dict[str, torch.Tensor], runs: int) -> torch.Tensor:
    """Return the `batch_loss` of each run, (runs,), where the batch consists of equally many rows of each run, in their order."""
    if config.task.kind == "generation":
        logits, wanted, rows = _completion_logits(model, batch)
        losses = F.cross_entropy(logits, wanted, label_smoothing=config.train.label_smoothing, reduction="none")
        owner = rows // (len(batch["input_ids"]) // runs)
        sums = losses.new_zeros(runs).index_add(0, owner, losses)
        return sums / torch.bincount(owner, minlength=runs).clamp(min=1)
    logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits.float()
    if config.task.kind == "regression":
        losses = F.mse_loss(logits.squeeze(-1), batch["labels"], reduction="none")
    else:
        losses = F.cross_entropy(logits, batch["labels"], reduction="none")
    return losses.view(runs, -1).mean(1)


def base_model(model: nn.Module) -> nn.Module:
    """Return the transformers model inside a PEFT model; a model without PEFT is returned as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _completion_logits(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, for every target token, its logits (float32), the token, and its row of the batch."""
    causal: Any = base_model(model)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    position = torch.arange(1, ids.shape[1], device=ids.device)
    targets = (position >= batch["labels"][:, None]) & mask[:, 1:].bool()  # (batch, width - 1)
    hidden = causal.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
    logits = causal.get_output_embeddings()(hidden[targets]).float()
    return logits, ids[:, 1:][targets], targets.nonzero()[:, 0]
