"""AdamW over the trainable parameters of a run, and the learning rate of each step."""

import math

import torch
from torch import nn

from mtlora.config.schema import TrainConfig


def make_optimizer(model: nn.Module, t: TrainConfig) -> torch.optim.AdamW:
    """Make AdamW over the trainable parameters; decay skips biases and, with `decay_t=false`, the matrices of T."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_t = ".mtlora_C" in name or ".mtlora_D" in name
            skips = name.endswith("bias") or (is_t and not t.decay_t)
            (plain if skips else decayed).append(parameter)
    parameters = [{"params": decayed, "weight_decay": t.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in parameters if group["params"]], lr=0.0, betas=(t.beta1, t.beta2), eps=t.eps, fused=True
    )


def trained(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the parameters of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def learning_rate(t: TrainConfig, step: int, total: int) -> float:
    """Return the rate of a step (counted from 0): linear warm-up from 0, then linear decay to 0."""
    warmup = t.warmup_steps if t.warmup_steps is not None else math.ceil(t.warmup_ratio * total)
    if step < warmup:
        return t.learning_rate * step / warmup
    return t.learning_rate * (total - step) / max(1, total - warmup)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
