"""The size of an adapter's first step, and the runs that are equal because their steps are."""

import math
from functools import lru_cache

import pytest
import torch
from helpers.tiny_runs import NO_DROPOUT

from mtlora.adapter import MTLoraLayer
from mtlora.adapter.transforms import STRUCTURES, gain
from mtlora.data.encoding import collate
from mtlora.plan.cell import compose_cell
from mtlora.train.data import load_data
from mtlora.train.model.build import build_model
from mtlora.train.model.methods import ADAPTER, MethodModel
from mtlora.train.objectives import batch_loss
from mtlora.train.optimizer import make_optimizer, set_learning_rate

WITH_T = [name for name in STRUCTURES if name != "none"]
WIDE = ("model.architecture.hidden_size=256", "model.architecture.num_hidden_layers=3", "targets=all")
EXACT = ("train.eps=1e-30", "train.weight_decay=0")  # the step of B is then exactly the sign of its gradient
R, SEEDS = 4, 6


def trained(*overrides: str, steps: int = 1, model: MethodModel | None = None) -> MethodModel:
    """Take optimizer steps at a constant rate on real texts, a new batch each, without dropout."""
    config = compose_cell(["model=tiny", "task=rte", *NO_DROPOUT, *overrides]).config
    tokenizer, data = load_data(compose_cell(["model=tiny", "task=rte", *overrides]))
    model = model or build_model(config, tokenizer)
    model.eval()
    optimizer = make_optimizer(model, config.train)
    set_learning_rate(optimizer, config.learning_rate)
    for step in range(steps):
        first = 16 * (config.seed + step)
        batch = collate(data.train, data.train_rows[first : first + 16], data.pad_token_id, "longest", 128)
        batch_loss(config, model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@lru_cache
def first_step(method: str, protocol: str) -> float:
    """||dW|| after one step of AdamW from the official start, averaged over layers and seeds."""
    sizes = []
    for seed in range(SEEDS):
        model = trained(*WIDE, *EXACT, f"adapter.r={R}", f"transform={method}", f"protocol={protocol}", f"seed={seed}")
        layers = [layer for layer in model.modules() if isinstance(layer, MTLoraLayer)]
        sizes += [float(layer.get_delta_weight(ADAPTER).norm()) for layer in layers]
    assert len(sizes) == SEEDS * 3 * 6
    return sum(sizes) / len(sizes)


def alignment(structure: str, r: int) -> float:
    """By how much more than `gain` T changes the first step, because the step in B depends on T.

    With M = T T^T, a row of the step is sign(T v) for an isotropic Gaussian v = A g, and E ||sign(T v)^T T||^2 is the sum of
    M_jk (2 / pi) arcsin(M_jk / sqrt(M_jj M_kk)): the mean of M_jj, which is `gain`, and what is off the diagonal, never negative.
    """
    stream, bound = torch.Generator().manual_seed(5), 1 / math.sqrt(r)
    shape = (1_000_000 // r**2, r, r)
    factors = [torch.empty(shape).uniform_(-bound, bound, generator=stream) for _ in STRUCTURES[structure].factors]
    t = STRUCTURES[structure].matrix(*factors)
    assert t is not None
    m = (t @ t.mT).double()
    size = m.diagonal(dim1=-2, dim2=-1).sqrt()
    cosine = (m / (size[..., :, None] * size[..., None, :])).clamp(-1, 1)
    return math.sqrt(float((m * cosine.asin()).sum() * 2 / math.pi / (len(m) * r))) / gain(structure, r)


@pytest.mark.parametrize("structure", WITH_T)
def test_the_first_step_is_the_gain_times_the_alignment(structure: str) -> None:
    ratio = first_step(structure, "published") / first_step("lora", "published")
    assert ratio == pytest.approx(gain(structure, R) * alignment(structure, R), rel=0.1)


@pytest.mark.parametrize("structure", WITH_T)
def test_a_published_step_divided_by_the_gain_is_a_matched_step(structure: str) -> None:
    published, matched = (first_step(structure, protocol) for protocol in ("published", "matched"))
    assert matched == pytest.approx(published / gain(structure, R), rel=1e-4)


@pytest.mark.parametrize("structure", WITH_T)
@pytest.mark.xfail(strict=True, reason="`gain` leaves out the alignment, 1.2 to 1.4 at r = 4")
def test_matched_first_steps_are_equal(structure: str) -> None:
    assert first_step(structure, "matched") == pytest.approx(first_step("lora", "matched"), rel=0.1)


def test_lora_scaled_has_the_first_step_that_the_gain_of_ctcm_gives() -> None:
    scaled, lora = first_step("lora_scaled", "published"), first_step("lora", "published")
    assert scaled == pytest.approx(lora * gain("ctcm", R), rel=1e-4)


def test_dtsm_is_shim_at_twice_the_rate_of_t() -> None:
    """Adam moves C and D of C + D alike, so their sum moves twice as far as the C of SHIM."""
    same = ("rank=r2", "protocol=published", "train.max_grad_norm=0", "train.decay_t=false", "train.learning_rate=0.01")
    dtsm, shim = ("transform=dtsm", *same), ("transform=shim", "train.lr_ratio_t=2", *same)
    models = []
    for more in (shim, dtsm):
        cell = compose_cell(["model=tiny", "task=rte", *NO_DROPOUT, *more])
        models.append(build_model(cell.config, load_data(cell)[0]).double())
    pairs = [
        (one, other)
        for one, other in zip(*(model.modules() for model in models), strict=False)
        if isinstance(one, MTLoraLayer) and isinstance(other, MTLoraLayer)
    ]
    assert len(pairs) == 4
    with torch.no_grad():
        for one, other in pairs:
            one.mtlora_C[ADAPTER].copy_(other.get_transform(ADAPTER))
    before = [one.get_transform(ADAPTER).clone() for one, _ in pairs]
    trained(*shim, steps=20, model=models[0])
    trained(*dtsm, steps=20, model=models[1])
    for (one, other), start in zip(pairs, before, strict=True):
        t, total = one.get_transform(ADAPTER), other.get_transform(ADAPTER)
        assert (t - start).norm() > 0.01 * start.norm(), "T has moved"
        assert (t - total).norm() <= 1e-9 * t.norm()
        for letter in "AB":
            mine, theirs = (layer._parameters_of(letter)[ADAPTER] for layer in (one, other))
            assert (mine - theirs).norm() <= 1e-9 * mine.norm(), letter
