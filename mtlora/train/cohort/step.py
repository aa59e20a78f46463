"""The optimizer step of a cohort: one forward and one backward pass for the batches of all runs."""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from mtlora.data.encoding import collate
from mtlora.train.batches import loss_shares
from mtlora.train.cohort.network import Network
from mtlora.train.cohort.optimizer import CohortAdamW
from mtlora.train.compute import to_device
from mtlora.train.evaluation import Answers, predict
from mtlora.train.model.dropout import Masks
from mtlora.train.objectives import run_losses
from mtlora.train.run import Run


class CohortStep:
    """The optimizer step of runs in lock-step (a `loop.Step`), whose backbones share their tensors."""

    masks: Masks
    network: Network
    optimizer: CohortAdamW

    def __init__(self, accelerator: Accelerator) -> None:
        """Take the accelerator; it does not wrap the runs' models and optimizers."""
        self.accelerator = accelerator
        self.runs: list[Run] = []

    def begin(self, runs: Sequence[Run]) -> None:
        """Stack the adapters and heads of the runs, and the state of their optimizers, unless these runs are stacked already.

        Raises:
            CohortUnsupported: the models have adapters or trained modules that cannot be stacked.
        """
        if list(runs) == self.runs:
            self.network.model.train()
            return
        self.runs = list(runs)
        streams = [(run.config.seed, run.config.adapter.dropout) for run in runs]
        self.masks = Masks(streams, self.accelerator.device)
        self.network = Network([run.model for run in runs], self.masks)
        self.optimizer = CohortAdamW(
            [run.optimizer for run in runs], [run.norm_limit for run in runs], self.network.places
        )
        self.network.model.train()

    def __call__(
        self, batches: Sequence[list[np.ndarray]], seeds: Sequence[int]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Take one optimizer step of all runs.

        Raises:
            CohortUnsupported: the model computes with a tensor that has not the rows of all runs, or draws random numbers itself.
        """
        runs, network, accelerator = self.runs, self.network, self.accelerator
        self.masks.begin_step(seeds)
        shares = [loss_shares(run.config, run.data, own) for run, own in zip(runs, batches, strict=True)]
        total = torch.zeros(len(runs), device=accelerator.device)
        for number, parts in enumerate(zip(*batches, strict=True)):
            batch = self._collated(parts) | {"share": torch.tensor([of_run[number] for of_run in shares])}
            batch = to_device(batch, accelerator.device)
            share = batch.pop("share")
            with accelerator.autocast():
                losses = run_losses(runs[0].config, network.model, batch, len(runs)) * share
            self.masks.end_batch()
            losses.sum().backward()  # each loss depends only on the parameters of its own run
            total += losses.detach().float()
        norms = self.optimizer.step([run.rate for run in runs])
        return list(total), list(norms)

    def predict(self) -> Sequence[Answers | None]:
        """Return the answers of each run; texts are left to the runs, because a batch of them keeps a device busy."""
        runs = self.runs
        if runs[0].config.task.kind == "generation":
            return [None] * len(runs)
        self.network.model.eval()

        def forward(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            together = {name: tensor.repeat(len(runs), 1) for name, tensor in batch.items()}
            count, width = together["input_ids"].shape
            self.masks.begin_batch(count, [width] * len(runs))
            logits: torch.Tensor = self.network.model(**together).logits
            return logits.view(len(runs), -1, logits.shape[-1])

        return predict(runs[0].config, self.accelerator, forward, runs[0].data, len(runs))

    def _collated(self, parts: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Return the rows of all runs as one batch, and set its shape in the masks."""
        config, data = self.runs[0].config, self.runs[0].data
        rows = np.concatenate(parts)
        widths = [
            config.data.max_length if config.data.padding == "max_length" else int(data.train.lengths[own].max())
            for own in parts
        ]
        self.masks.begin_batch(len(rows), widths)
        return collate(data.train, rows, data.pad_token_id, config.data.padding, config.data.max_length)
