"""AdamW and gradient clipping for all runs of a cohort at once.

A step takes about thirty operations, however many runs there are. With an optimizer for each run it takes about ten calls from
Python for each, and on a GPU these calls would take most of the time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtlora.base.errors import CohortUnsupported
from mtlora.train.cohort.layers import Place


class CohortAdamW:
    """AdamW (arXiv 1711.05101, as `torch.optim.AdamW`) for the parameters of all runs, each at its run's settings.

    The values of all stacks lie side by side in one tensor, likewise their gradients and moments. The runs' own parameters, and
    the state of their optimizers, become views of these tensors, so nothing is copied between steps.

    Sizes in shapes: K runs; R rows, each a parameter of one run; V values in all.
    """

    def __init__(
        self, optimizers: Sequence[torch.optim.Optimizer], limits: Sequence[float], places: Sequence[Place]
    ) -> None:
        """Move the runs' parameters and the state of their optimizers into common tensors.

        Args:
            optimizers: an AdamW for each run, which keeps its state and its settings.
            limits: for each run the greatest norm of its gradient.
            places: of all trained parameters; they fill their stacks.

        Raises:
            CohortUnsupported: a parameter is not in fp32, in which alone small updates and decay are not rounded away.
        """
        if any(place.parameter.dtype != torch.float32 for place in places):
            raise CohortUnsupported("trained parameters are not in fp32")
        stacks = list({id(place.stack): place.stack for place in places}.values())
        order = {id(stack): number for number, stack in enumerate(stacks)}
        rows = sorted(places, key=lambda place: (order[id(place.stack)], place.row))
        run_of, group_of = _settings(optimizers)
        like = stacks[0]
        self.device = like.device
        self.values = like.new_empty(sum(stack.numel() for stack in stacks))
        self.gradients, self.means, self.squares = (torch.zeros_like(self.values) for _ in range(3))
        self.steps = self.values.new_zeros(len(rows), dtype=torch.float32)
        start = 0
        for stack in stacks:
            stop = start + stack.numel()
            stack.data = self.values[start:stop].view(stack.shape)
            stack.grad = self.gradients[start:stop].view(stack.shape)
            start = stop
        start = 0
        for number, (parameter, _, _) in enumerate(rows):
            part = slice(start, start + parameter.numel())
            self._adopt(optimizers[run_of[parameter]], parameter, part, number)
            start = part.stop
        runs = torch.tensor([run_of[row.parameter] for row in rows])
        self.run_of_row = runs.to(self.device)
        self.by_run = runs.argsort(stable=True).to(self.device)  # the rows, those of a run side by side
        self.rows_of_run = runs.bincount(minlength=len(optimizers)).to(self.device)
        self.sizes = torch.tensor([row.parameter.numel() for row in rows], device=self.device)
        self.limits = torch.tensor(list(limits), device=self.device)
        groups = [group_of[row.parameter] for row in rows]
        columns = [[*group["betas"], group["eps"], group["weight_decay"], group["ratio"]] for group in groups]
        self.settings = torch.tensor(columns, dtype=torch.float64, device=self.device).T  # (5, R)

    def _adopt(self, optimizer: torch.optim.Optimizer, parameter: Tensor, part: slice, number: int) -> None:
        """Copy a parameter and its optimizer's state into the common tensors, and make both views of them."""
        own: dict[str, Any] = {"exp_avg": self.means, "exp_avg_sq": self.squares}
        own = {name: tensor[part].view(parameter.shape) for name, tensor in own.items()} | {"step": self.steps[number]}
        state = optimizer.state[parameter]
        for name, view in own.items():
            if name in state:
                view.copy_(state[name])
            state[name] = view
        values = self.values[part].view(parameter.shape)
        values.copy_(parameter.data)
        parameter.data = values

    @torch.no_grad()
    def step(self, rates: Sequence[float]) -> Tensor:
        """Clip the gradient of each run, update its parameters, and set all gradients to zero.

        Args:
            rates: the learning rate of each run.

        Returns:
            The norm of each run's gradient before clipping, (K,).
        """
        # In fp64, because on a CPU the values of a row are added one after another.
        squares = torch.segment_reduce(self.gradients.double().square(), "sum", lengths=self.sizes, unsafe=True)
        squares = torch.segment_reduce(squares[self.by_run], "sum", lengths=self.rows_of_run, unsafe=True)
        norms = squares.sqrt().float()
        clip = (self.limits / (norms + 1e-6)).clamp(max=1)  # as torch.nn.utils.clip_grad_norm_
        self.steps += 1
        beta1, beta2, eps, decay, ratio = self.settings
        rate = torch.tensor(rates, dtype=torch.float64).to(self.device, non_blocking=True)[self.run_of_row] * ratio
        size = rate / (1 - beta1**self.steps)
        root = (1 - beta2**self.steps).sqrt()
        of_rows = (clip[self.run_of_row], 1 - rate * decay, 1 - beta1, 1 - beta2, size, root, eps)
        clip, kept, new, new_square, size, root, eps = (
            row.float().repeat_interleave(self.sizes, output_size=len(self.values)) for row in of_rows
        )
        gradients = self.gradients.mul_(clip)
        self.values.mul_(kept)
        self.means.lerp_(gradients, new)
        self.squares.lerp_(gradients.square(), new_square)
        denominator = self.squares.sqrt().div_(root).add_(eps)
        self.values.addcdiv_(self.means * size, denominator, value=-1)
        self.gradients.zero_()
        return norms


def _settings(optimizers: Sequence[torch.optim.Optimizer]) -> tuple[dict[Tensor, int], dict[Tensor, dict[str, Any]]]:
    """Return the number of the run of each parameter, and its group in the run's optimizer."""
    run_of: dict[Tensor, int] = {}
    group_of: dict[Tensor, dict[str, Any]] = {}
    for run, optimizer in enumerate(optimizers):
        for group in optimizer.param_groups:
            run_of |= dict.fromkeys(group["params"], run)
            group_of |= dict.fromkeys(group["params"], group)
    return run_of, group_of
