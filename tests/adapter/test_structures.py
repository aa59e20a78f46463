"""The rules that every structure of T keeps, also one that a user adds; they are stated in docs/extending.md."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mtlora.adapter.transforms import STRUCTURES, Structure

WITH_T = [name for name, row in STRUCTURES.items() if row.factors]
# Rows that are not shipped: a number of free parameters, and a start at which T is not 0.
EXAMPLES = {
    "triangular": Structure("C", torch.triu, parameters=lambda r: r * (r + 1) // 2),
    "rotation": Structure("C", lambda c: torch.matrix_exp((c - c.mT).float()).to(c.dtype), identity=0.0),
}
ROWS = {name: STRUCTURES[name] for name in WITH_T} | EXAMPLES


def factors(row: Structure, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in row.factors]


@pytest.mark.parametrize("name", ROWS)
def test_leading_dimensions_are_separate_matrices(name: str) -> None:
    row = ROWS[name]
    stacked = factors(row, 2, 3, 4, 4)
    t = row.matrix(*stacked)
    assert t is not None
    assert t.shape == (2, 3, 4, 4)
    for place in ((i, j) for i in range(2) for j in range(3)):
        torch.testing.assert_close(t[place], row.matrix(*(factor[place] for factor in stacked)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ROWS)
def test_half_precision_is_kept(name: str, dtype: torch.dtype) -> None:
    row = ROWS[name]
    full = factors(row, 3, 4, 4)
    t = row.matrix(*(factor.to(dtype) for factor in full))
    assert t is not None
    assert t.dtype == dtype
    torch.testing.assert_close(t.float(), row.matrix(*full), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ROWS)
def test_the_identity_start_gives_the_identity(name: str) -> None:
    row = ROWS[name]
    torch.testing.assert_close(row.matrix(*(row.identity * torch.eye(3) for _ in row.factors)), torch.eye(3))


@pytest.mark.parametrize("name", ROWS)
def test_no_more_free_parameters_than_entries(name: str) -> None:
    row, r = ROWS[name], 5
    if row.parameters is not None:
        assert 0 < row.parameters(r) <= len(row.factors) * r**2


def test_zero_t_needs_a_t_of_0_with_a_gradient() -> None:
    found = {name: row.trains_from_zero for name, row in (STRUCTURES | EXAMPLES).items()}
    assert found == found | {"none": False, "shim": True, "icfm": False, "ctcm": False, "dtsm": True}
    assert found["triangular"]
    assert not found["rotation"], "T = I where C = 0"


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, lambda: torch.device("meta")])
def test_zero_t_is_judged_wherever_a_configuration_is_made(context: Callable[[], Any]) -> None:
    with context():
        assert dataclasses.replace(STRUCTURES["shim"]).trains_from_zero
        assert not dataclasses.replace(STRUCTURES["ctcm"]).trains_from_zero
