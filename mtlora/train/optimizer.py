"""AdamW over the trainable parameters of a run, and the learning rate of each step."""

import math

import torch
from torch import nn

from mtlora.config.schema import RunConfig, TrainConfig


def make_optimizer(model: nn.Module, t: TrainConfig) -> torch.optim.AdamW:
    """Make AdamW over the trainable parameters.

    Decay skips biases and, with `decay_t=false`, the factors of T. The rate of T and of B is a multiple of the learning rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}  # (decay, ratio) -> parameters
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_t, is_b = ".mtlora_C" in name or ".mtlora_D" in name, ".mtlora_B" in name
            decay = 0.0 if name.endswith("bias") or (is_t and not t.decay_t) else t.weight_decay
            ratio = t.lr_ratio_t if is_t else t.lr_ratio_b if is_b else 1.0
            groups.setdefault((decay, ratio), []).append(parameter)
    parameters = [{"params": found, "weight_decay": key[0], "ratio": key[1]} for key, found in groups.items()]
    return torch.optim.AdamW(parameters, lr=0.0, betas=(t.beta1, t.beta2), eps=t.eps, fused=True)


def trained(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the parameters of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def learning_rate(config: RunConfig, step: int, total: int) -> float:
    """Return the rate of a step (counted from 0): linear warm-up from 0, then linear decay to 0."""
    t, peak = config.train, config.learning_rate
    warmup = t.warmup_steps if t.warmup_steps is not None else math.ceil(t.warmup_ratio * total)
    if step < warmup:
        return peak * step / warmup
    return peak * (total - step) / max(1, total - warmup)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group its multiple of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["ratio"]
