"""The checkpoint, from which a killed run resumes: with the same losses on a CPU, to rounding on a GPU.

It holds the trainable tensors, the optimizer's state and the `TrainingState`. It needs no state of random generators, because
batches depend on (seed, epoch) and dropout on (seed, step) alone.
"""

import logging
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from mtlora.adapter.matrices import with_current_names
from mtlora.base.files import replacing
from mtlora.records.schema import Cohort, Epoch

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"


@dataclass
class TrainingState:
    """The progress of a run, saved in every checkpoint."""

    epoch: int = 0  # epochs finished
    epoch_step: int = 0  # optimizer steps done in the current epoch
    step: int = 0  # optimizer steps done in all
    epoch_loss: float = 0.0  # sum of the current epoch's training losses, a term per step
    tokens: int = 0  # real (unpadded) training tokens seen
    seconds: float = 0.0  # wall time over all attempts
    train_seconds: float = 0.0  # the part of `seconds` spent in optimizer steps
    window: list[torch.Tensor] = field(default_factory=list)  # losses since the last row of metrics.jsonl
    rows: list[dict[str, Any]] = field(default_factory=list)  # of metrics.jsonl
    epochs: list[Epoch] = field(default_factory=list)  # one per finished epoch
    geometry: list[dict[str, Any]] = field(default_factory=list)  # rows of geometry.jsonl
    cohort: Cohort | None = None  # the last cohort in which the run trained


def save_checkpoint(
    path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState
) -> None:
    """Write a checkpoint atomically."""
    content = {
        "identity": identity,
        "tensors": {name: p.detach() for name, p in model.named_parameters() if p.requires_grad},
        "optimizer": optimizer.state_dict(),
        "state": asdict(state),
    }
    # In a cohort these tensors are views of a tensor of all runs, of which `torch.save` would write the whole.
    content = tree_map_only(torch.Tensor, torch.clone, content)
    with replacing(path) as stream:
        torch.save(content, stream)


def load_checkpoint(
    path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> TrainingState | None:
    """Restore a checkpoint into model and optimizer, and return its state; None if there is no usable checkpoint of this run.

    If the file is damaged, or belongs to another configuration or kind of device, the run starts from its beginning. That costs
    only time, because all randomness is a function of the seed.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch.load does not verify checksums
                raise ValueError("its content is damaged")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["identity"] != identity:
            raise ValueError("it belongs to another configuration")
        own = {name: p for name, p in model.named_parameters() if p.requires_grad}
        state = TrainingState(**content["state"])
        tensors = with_current_names(content["tensors"])
        if {n: tensor.shape for n, tensor in tensors.items()} != {n: p.shape for n, p in own.items()}:
            raise ValueError("its tensors are not those of the model")
        optimizer.load_state_dict(content["optimizer"])
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])
        state.window = [loss.to(next(iter(own.values())).device) for loss in state.window]
        return state
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).split("\n")[0][:200]
        log.warning("the checkpoint %s cannot be used (%s): this run starts from its beginning", path, reason)
        return None
