"""The size of an adapter's first step, and the runs that are equal because their steps are."""

from functools import lru_cache

import pytest
import torch
from helpers.tiny_runs import NO_DROPOUT

from mtlora.adapter import MTLoraLayer
from mtlora.adapter.transforms import STRUCTURES, first_step
from mtlora.data.encoding import collate
from mtlora.plan.cell import Cell, compose_cell, with_seed
from mtlora.train.data import load_data
from mtlora.train.model.build import build_model
from mtlora.train.model.methods import ADAPTER, MethodModel
from mtlora.train.objectives import batch_loss
from mtlora.train.optimizer import make_optimizer, set_learning_rate

WITH_T = [name for name in STRUCTURES if name != "none"]
WIDE = ("model.architecture.hidden_size=256", "model.architecture.num_hidden_layers=3", "targets=all")
EXACT = ("train.eps=1e-30", "train.weight_decay=0")  # the step of B is then exactly the sign of its gradient
R, SEEDS = 4, 6

pytestmark = pytest.mark.xdist_group("first_step")  # one process takes the first steps of LoRA, once


def trained(*overrides: str, steps: int = 1, model: MethodModel | None = None) -> MethodModel:
    """Take optimizer steps at a constant rate on real texts, a new batch each, without dropout."""
    return train(compose_cell(["model=tiny", "task=rte", *NO_DROPOUT, *overrides]), steps, model)


def train(cell: Cell, steps: int = 1, model: MethodModel | None = None) -> MethodModel:
    """See `trained`."""
    config = cell.config
    tokenizer, data = load_data(cell)
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
def first_step_of(method: str, protocol: str) -> float:
    """||dW|| after one step of AdamW from the official start, averaged over layers and seeds."""
    one = [*WIDE, *EXACT, *NO_DROPOUT, f"adapter.r={R}", f"transform={method}", f"protocol={protocol}"]
    cell = compose_cell(["model=tiny", "task=rte", *one])
    sizes = []
    for seed in range(SEEDS):
        model = train(with_seed(cell, seed))
        layers = [layer for layer in model.modules() if isinstance(layer, MTLoraLayer)]
        sizes += [float(layer.get_delta_weight(ADAPTER).norm()) for layer in layers]
    assert len(sizes) == SEEDS * 3 * 6
    return sum(sizes) / len(sizes)


@pytest.mark.parametrize("structure", WITH_T)
def test_a_published_first_step_is_smaller_by_the_expected_factor(structure: str) -> None:
    ratio = first_step_of(structure, "published") / first_step_of("lora", "published")
    assert ratio == pytest.approx(first_step(structure, R), rel=0.1)


@pytest.mark.parametrize("structure", WITH_T)
def test_matched_first_steps_are_equal(structure: str) -> None:
    assert first_step_of(structure, "matched") == pytest.approx(first_step_of("lora", "matched"), rel=0.1)


def test_lora_scaled_has_the_first_step_of_ctcm() -> None:
    scaled, lora = first_step_of("lora_scaled", "published"), first_step_of("lora", "published")
    assert scaled == pytest.approx(lora * first_step("ctcm", R), rel=1e-4)


def test_dtsm_is_shim_at_twice_the_rate_of_t() -> None:
    """Adam moves C and D of C + D alike, so their sum moves twice as far as the C of SHIM."""
    same = ("rank=r2", "protocol=published", "train.max_grad_norm=0", "train.decay_t=false", "train.learning_rate=0.01")
    dtsm, shim = ("transform=dtsm", *same), ("transform=shim", "train.lr_ratio_t=2", *same)
    models = []
    for more in (shim, dtsm):
        cell = compose_cell(["model=tiny", "task=rte", *NO_DROPOUT, *more])
        models.append(build_model(cell.config, load_data(cell)[0]).double())
    layers = [[layer for layer in model.modules() if isinstance(layer, MTLoraLayer)] for model in models]
    pairs = list(zip(*layers, strict=True))
    assert len(pairs) == 4
    with torch.no_grad():
        for one, other in pairs:
            one.weight_of("C", ADAPTER).copy_(other.get_transform(ADAPTER))
    before = [one.get_transform(ADAPTER).clone() for one, _ in pairs]
    trained(*shim, steps=20, model=models[0])
    trained(*dtsm, steps=20, model=models[1])
    for (one, other), start in zip(pairs, before, strict=True):
        t, total = one.get_transform(ADAPTER), other.get_transform(ADAPTER)
        assert (t - start).norm() > 0.01 * start.norm(), "T has moved"
        assert (t - total).norm() <= 1e-9 * t.norm()
        for letter in "AB":
            mine, theirs = (layer.weight_of(letter, ADAPTER) for layer in (one, other))
            assert (mine - theirs).norm() <= 1e-9 * mine.norm(), letter
