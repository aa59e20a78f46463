"""The training loop of a cohort: the same steps as in `mtlora.train.loop`, with one forward and backward pass for all runs."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator

from mtlora.base.errors import UserError
from mtlora.base.interrupt import shielded
from mtlora.data.encoding import collate
from mtlora.train.cohort.dropout import RunDropout
from mtlora.train.cohort.network import Network
from mtlora.train.compute import to_device
from mtlora.train.loop import Run, loss_shares, trained
from mtlora.train.model.attention import fastest_attention
from mtlora.train.objectives import run_losses

Ended = Callable[[Run, Exception | None], None]


def train_together(
    runs: Sequence[Run],
    accelerator: Accelerator,
    on_end: Ended,
    on_step: Callable[[int, int], None] = lambda step, total: None,
) -> None:
    """Train runs to their ends, from their checkpoints, in lock-step.

    Runs whose checkpoints are of different steps train one group after another.

    Args:
        runs: of one `grouping.cohort_key`, on one device, with backbones that share their tensors.
        on_end: called with each run that has finished, or with the reason why it cannot go on; the others go on.
        on_step: called with (steps done, steps in all) of the group after each optimizer step.

    Raises:
        CohortUnsupported: these models cannot train in lock-step; nothing has been trained.
    """
    ended: set[int] = set()

    def end(run: Run, error: Exception | None) -> None:
        ended.add(id(run))
        on_end(run, error)

    for run in runs:
        run.restore()
    groups: dict[int, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.progress.step, []).append(run)
    try:
        for step in sorted(groups):
            _train(groups[step], accelerator, end, on_step)
    except (KeyboardInterrupt, SystemExit):
        for run in runs:
            if not run.finished and id(run) not in ended:
                run.save_if_possible()
        raise


def _train(active: list[Run], accelerator: Accelerator, on_end: Ended, on_step: Callable[[int, int], None]) -> None:
    for run in active:
        run.start_clock(len(active))
    while active:
        # Anew for every epoch, and without a run that has left: stacking costs less than a step.
        finished = [run for run in active if run.finished]
        for run in finished:
            on_end(run, None)
        active = [run for run in active if not run.finished]
        if active:
            active = _train_epoch(active, accelerator, on_end, on_step)


def _train_epoch(
    runs: list[Run], accelerator: Accelerator, on_end: Ended, on_step: Callable[[int, int], None]
) -> list[Run]:
    """Train the rest of an epoch, or until a run fails; return the runs that go on."""
    dropout = RunDropout([(run.config.seed, run.config.adapter.dropout) for run in runs], accelerator.device)
    network = Network([run.model for run in runs], dropout)
    network.model.train()
    for run in runs:
        run.note_time()  # while the cohort was as large as before
        run.start_clock(len(runs))
    failed: dict[int, Exception] = {}
    for step in zip(*(run.groups() for run in runs), strict=True):
        with shielded():
            started = time.monotonic()
            seeds = [run.begin_step() for run in runs]
            dropout.seed(seeds)
            torch.manual_seed(seeds[0])  # for what draws otherwise than by dropout, if a model does
            losses, norms = step_together(runs, step, network, accelerator)
            seconds = (time.monotonic() - started) / len(runs)
            for i, (run, group) in enumerate(zip(runs, step, strict=True)):
                try:
                    run.end_step(group, losses[i], norms[i], seconds)
                except UserError as error:
                    failed[i] = error
        on_step(runs[0].progress.step, runs[0].total)
        if failed:
            return _without(runs, failed, on_end)
    for i, run in enumerate(runs):
        try:
            metrics = run.evaluate(accelerator)
            with shielded():
                run.end_epoch(metrics)
        except UserError as error:
            failed[i] = error
    return _without(runs, failed, on_end)


def _without(runs: list[Run], failed: dict[int, Exception], on_end: Ended) -> list[Run]:
    for i, error in failed.items():
        on_end(runs[i], error)
    return [run for i, run in enumerate(runs) if i not in failed]


def step_together(
    runs: Sequence[Run], step: Sequence[list[np.ndarray]], network: Network, accelerator: Accelerator
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Take one optimizer step of all runs; return their losses (K,) and the norms of their gradients."""
    config, data = runs[0].config, runs[0].data
    shares = [loss_shares(run.config, run.data, group) for run, group in zip(runs, step, strict=True)]
    network.load()
    total = torch.zeros(len(runs), device=accelerator.device)
    for number, batches in enumerate(zip(*step, strict=True)):
        rows = np.concatenate(batches)
        batch = collate(data.train, rows, data.pad_token_id, config.data.padding, config.data.max_length)
        network.dropout.rows = len(rows)
        network.dropout.widths = [
            config.data.max_length if config.data.padding == "max_length" else int(data.train.lengths[own].max())
            for own in batches
        ]
        batch |= {"share": torch.tensor([of_run[number] for of_run in shares])}
        batch = to_device(batch, accelerator.device)
        share = batch.pop("share")
        with accelerator.autocast(), fastest_attention(accelerator.device), network.dropout:
            losses = run_losses(config, network.model, batch, len(runs)) * share
        losses.sum().backward()  # each loss reaches the parameters of its own run only
        total += losses.detach().float()
    network.share_gradients()
    norms = []
    for run in runs:
        limit = run.config.train.max_grad_norm or math.inf
        norms.append(torch.nn.utils.clip_grad_norm_(trained(run.optimizer), limit))
        run.optimizer.step()
    return total, norms
