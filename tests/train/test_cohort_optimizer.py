"""AdamW for all runs at once takes the steps of `torch.optim.AdamW` and `clip_grad_norm_` for each run."""

import math

import pytest
import torch
from torch import nn

from mtlora.base.errors import CohortUnsupported
from mtlora.train.cohort.layers import Place
from mtlora.train.cohort.optimizer import CohortAdamW

SETTINGS = (  # rate, greatest norm, betas, eps, decay
    (1e-2, 1.0, (0.9, 0.999), 1e-8, 0.1),
    (3e-3, math.inf, (0.8, 0.99), 1e-6, 0.0),
    (0.0, 0.01, (0.0, 0.5), 1e-3, 0.5),
)


def parameters_of(run: int) -> dict[str, nn.Parameter]:
    """Return a matrix and a bias; the last run has a second matrix."""
    generator = torch.Generator().manual_seed(run)
    shapes = {"A": (3, 5), "bias": (5,)} | ({"C": (3, 3)} if run == 2 else {})
    return {name: nn.Parameter(torch.randn(*shape, generator=generator)) for name, shape in shapes.items()}


def optimizer_of(parameters: dict[str, nn.Parameter], run: int) -> torch.optim.AdamW:
    rate, _, betas, eps, decay = SETTINGS[run]
    groups = [
        {"params": [p for name, p in parameters.items() if name != "bias"], "weight_decay": decay, "ratio": 2.0},
        {"params": [parameters["bias"]], "weight_decay": 0.0, "ratio": 1.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["ratio"]
    return optimizer


def alone(run: int, parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW, step: int) -> torch.Tensor:
    """Take the step of a run by itself, and return the norm of its gradient."""
    for name, parameter in parameters.items():
        parameter.grad = gradient(run, name, step, parameter)
    norm = nn.utils.clip_grad_norm_(parameters.values(), SETTINGS[run][1])
    optimizer.step()
    return norm


def gradient(run: int, name: str, step: int, like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(100 * step + 10 * run + ord(name[0])))


def stacked(
    runs: list[dict[str, nn.Parameter]], optimizers: list[torch.optim.AdamW]
) -> tuple[CohortAdamW, list[Place]]:
    places = []
    for name in ("A", "bias", "C"):
        owners = [run for run in runs if name in run]
        stack = nn.Parameter(torch.zeros(len(owners), *owners[0][name].shape))
        places += [Place(run[name], stack, index) for index, run in enumerate(owners)]
    places = places[::-1]  # the order does not matter
    return CohortAdamW(optimizers, [limit for _, limit, *_ in SETTINGS], places), places


def test_steps_equal_those_of_torch_for_each_run() -> None:
    expected = [parameters_of(run) for run in range(3)]
    theirs = [optimizer_of(parameters, run) for run, parameters in enumerate(expected)]
    found = [parameters_of(run) for run in range(3)]
    ours = [optimizer_of(parameters, run) for run, parameters in enumerate(found)]
    for run in range(3):  # one step alone: its state is taken over
        for parameters, optimizer in ((expected[run], theirs[run]), (found[run], ours[run])):
            alone(run, parameters, optimizer, 0)
    together, places = stacked(found, ours)
    names = {id(p): (run, name) for run, own in enumerate(found) for name, p in own.items()}
    for step in range(1, 4):
        norms = [alone(run, expected[run], theirs[run], step) for run in range(3)]
        for parameter, stack, index in places:
            run, name = names[id(parameter)]
            assert stack.grad is not None
            assert not stack.grad[index].any(), "set to zero by the last step"
            stack.grad[index] = gradient(run, name, step, parameter)
        torch.testing.assert_close(together.step([rate for rate, *_ in SETTINGS]), torch.stack(norms))
        for run in range(3):
            for name, parameter in expected[run].items():
                torch.testing.assert_close(found[run][name].data, parameter.data)
    for parameter, stack, index in places:
        assert torch.equal(stack[index], parameter), "a run's own parameter is a view of the stack"
    for run in range(3):
        state, other = ours[run].state_dict()["state"], theirs[run].state_dict()["state"]
        torch.testing.assert_close(state, other)
        alone(run, found[run], ours[run], 9)  # a run can go on alone
        alone(run, expected[run], theirs[run], 9)
        for name, parameter in expected[run].items():
            torch.testing.assert_close(found[run][name].data, parameter.data)


def test_a_gradient_that_is_not_finite_stays_in_its_run() -> None:
    runs = [parameters_of(run) for run in range(3)]
    together, places = stacked(runs, [optimizer_of(parameters, run) for run, parameters in enumerate(runs)])
    for parameter, stack, index in places:
        assert stack.grad is not None
        stack.grad[index] = math.nan if any(parameter is p for p in runs[1].values()) else 1.0
    norms = together.step([rate for rate, *_ in SETTINGS])
    assert norms.isfinite().tolist() == [True, False, True]
    assert [all(p.isfinite().all() for p in run.values()) for run in runs] == [True, False, True]


def test_parameters_of_several_types_are_refused() -> None:
    places = [Place(nn.Parameter(torch.zeros(2, dtype=dtype)), nn.Parameter(torch.zeros(1, 2, dtype=dtype)), 0)
              for dtype in (torch.float32, torch.float64)]  # fmt: skip
    with pytest.raises(CohortUnsupported, match="several types"):
        CohortAdamW([], [], places)
