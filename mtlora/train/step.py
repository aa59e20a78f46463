"""The optimizer step of a run alone, in one process or in several."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from mtlora.train.batches import collated, loss_shares
from mtlora.train.compute import to_device
from mtlora.train.model.dropout import Masks, use_masks
from mtlora.train.objectives import Objective
from mtlora.train.optimizer import trained
from mtlora.train.run import Run


class SoloStep:
    """Takes the steps of one run; see `loop.Step`."""

    def __init__(self, run: Run, accelerator: Accelerator) -> None:
        """Let the accelerator wrap the run's model and optimizer."""
        self.run, self.accelerator = run, accelerator
        self.masks = Masks([run.config.seed], accelerator.device)
        use_masks(run.model, self.masks)
        self.objective, run.optimizer = accelerator.prepare(Objective(run.config, run.model), run.optimizer)

    def begin(self, runs: Sequence[Run]) -> None:
        """Put the model into training mode."""
        self.run.model.train()

    def __call__(
        self, batches: Sequence[list[np.ndarray]], seeds: Sequence[int]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Take one optimizer step over the batches of the only run.

        Each batch comes with its share of the step's loss, so accumulation equals one large batch.
        """
        run, accelerator, (own,) = self.run, self.accelerator, batches
        self.masks.begin_step(seeds)
        losses = []
        shares = loss_shares(run.config, run.data, own)
        for batch, part in zip(collated(run.config, run.data, own), shares, strict=True):
            with accelerator.autocast():
                loss = self.objective(to_device(batch, accelerator.device)) * part
            accelerator.backward(loss)
            losses.append(loss.detach().float())
        mean = accelerator.reduce(torch.stack(losses).sum(), "mean")  # over the processes
        norm = accelerator.clip_grad_norm_(trained(run.optimizer), run.config.train.max_grad_norm or math.inf)
        run.optimizer.step()
        run.optimizer.zero_grad()
        return [mean], [norm]
