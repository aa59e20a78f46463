"""The gain of T: its formulas, its measurement where there is none, and the start where T = I."""

import math

import pytest
import torch
from helpers.adapter_models import KINDS, STRUCTURES, adapted, ids, layer_of, toy

from mtlora.adapter.transforms import STRUCTURES as TABLE
from mtlora.adapter.transforms import Structure, first_step, gain

WITH_T = [name for name in TABLE if name != "none"]


def sampled(structure: str, r: int, width: int = 16) -> float:
    """sqrt(E ||T A||^2 / E ||A||^2) by its definition, from drawn T and A."""
    draws = math.ceil(6_000_000 / r / max(r, width))
    stream = torch.Generator().manual_seed(11)
    bound = 1 / math.sqrt(r)
    factors = [torch.empty(draws, r, r).uniform_(-bound, bound, generator=stream) for _ in TABLE[structure].factors]
    a = torch.empty(draws, r, width).uniform_(-1, 1, generator=stream)
    t = TABLE[structure].matrix(*factors)
    assert t is not None
    return math.sqrt(float((t @ a).double().square().sum() / a.double().square().sum()))


@pytest.mark.parametrize("r", [2, 4, 8, 64])
@pytest.mark.parametrize("structure", WITH_T)
def test_the_formula_equals_draws(structure: str, r: int) -> None:
    assert gain(structure, r) == pytest.approx(sampled(structure, r), rel=0.01)


def test_lora_has_no_gain() -> None:
    assert [gain("none", r) for r in (1, 8)] == [1, 1]


def test_a_structure_without_a_formula_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """T = C + C^T has E ||T||^2 = 2 r (r - 1) / (3 r) + 4 r / (3 r)."""
    monkeypatch.setitem(TABLE, "symmetric", Structure("C", lambda c: c + c.mT, identity=0.5))
    for r in (2, 8):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        measured = gain("symmetric", r)
        assert torch.equal(torch.get_rng_state(), state), "the global generator is not touched"
        assert measured == pytest.approx(math.sqrt((2 * (r - 1) + 4) / (3 * r)), rel=0.005)
        gain.cache_clear()
        torch.manual_seed(2)
        assert gain("symmetric", r) == measured
    gain.cache_clear()


@pytest.mark.parametrize("structure", WITH_T)
def test_a_measurement_agrees_with_the_formula(structure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = TABLE[structure]
    monkeypatch.setitem(TABLE, "unknown", Structure(known.factors, known.matrix, known.identity))
    assert gain("unknown", 4) == pytest.approx(gain(structure, 4), rel=0.005)
    gain.cache_clear()


@pytest.mark.parametrize("r", [1, 2, 8, 32])
@pytest.mark.parametrize("structure", WITH_T)
def test_the_first_step_equals_draws_of_the_signs(structure: str, r: int) -> None:
    """sqrt(E ||sign(T v)^T T||^2 / r), with a Gaussian v for each T."""
    count, bound, stream = math.ceil(3_000_000 / r**2), 1 / math.sqrt(r), torch.Generator().manual_seed(3)
    factors = [torch.empty(count, r, r).uniform_(-bound, bound, generator=stream) for _ in TABLE[structure].factors]
    t = TABLE[structure].matrix(*factors)
    assert t is not None
    v = torch.empty(count, r, 1).normal_(generator=stream)
    rows = (t @ v).sign().mT @ t
    drawn = math.sqrt(float(rows.double().square().sum()) / count / r)
    assert first_step(structure, r) == pytest.approx(drawn, rel=0.015)


def test_the_first_step_of_lora_and_of_a_scaled_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """T = C I has no entries off the diagonal to align with: the first step is the gain."""
    monkeypatch.setitem(TABLE, "diagonal", Structure("C", lambda c: c * torch.eye(c.shape[-1], dtype=c.dtype)))
    assert first_step("none", 8) == 1.0
    assert first_step("diagonal", 8) == pytest.approx(gain("diagonal", 8), abs=0.002)
    gain.cache_clear()
    first_step.cache_clear()


def drawn(structure: str, kind: str, init: str) -> torch.nn.Module:
    model = adapted(structure, kind)
    layer_of(model).reset_mtlora_parameters("default", init, lambda letter: torch.Generator().manual_seed(ord(letter)))
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_identity_t_is_the_official_start_with_t_equal_i(structure: str, kind: str) -> None:
    model = drawn(structure, kind, "identity_t")
    layer, official = layer_of(model), layer_of(drawn(structure, kind, "official"))
    for letter in "AB":
        assert torch.equal(*(part.weight_of(letter, "default") for part in (layer, official)))
    t = layer.get_transform("default")
    if structure == "none":
        assert t is None
    else:
        assert t is not None
        assert torch.equal(t, torch.eye(len(t), dtype=t.dtype))
    assert torch.equal(model(ids()), toy()(ids()))
