"""The summaries of T that a run keeps, on matrices whose geometry is known."""

import json
import math
from pathlib import Path

import pytest
import torch
from helpers.adapter_models import adapted, layer_of
from helpers.tiny_runs import finish

from mtlora.records.record import GEOMETRY
from mtlora.train.model.geometry import transform_geometry


def test_scaled_rotation() -> None:
    model = adapted("shim")
    angle, scale = 0.7, 3.0
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    with torch.no_grad():
        layer_of(model).weight_of("C", "default").copy_(scale * rotation)
    (row,) = transform_geometry(model, 4)
    assert (row["epoch"], row["module"]) == (4, "linear")
    assert row["singular_values"] == pytest.approx([scale, scale], rel=1e-4)
    assert row["eigenvalue_phases"] == pytest.approx([angle, angle], rel=1e-4)
    # ||sR - I||_F^2 = 2 (s^2 - 2 s cos + 1) for 2 x 2
    assert row["identity_distance"] == pytest.approx(math.sqrt(scale**2 - 2 * scale * math.cos(angle) + 1), rel=1e-4)


def test_structures_and_slices() -> None:
    assert transform_geometry(adapted("none"), 0) == []
    (row,) = transform_geometry(adapted("icfm"), 0)
    assert row["eigenvalue_phases"] == [0.0, 0.0]  # positive semidefinite: no rotation
    for start in ("shim", "ctcm", "dtsm"):
        (row,) = transform_geometry(adapted(start, init_weights="identity"), 0)
        assert (row["singular_values"], row["identity_distance"]) == ([1.0, 1.0], 0.0)
    (row,) = transform_geometry(adapted("shim", "fused linear, block"), 0)
    assert len(row["singular_values"]) == 4  # two slices of rank 2


def test_a_run_keeps_the_start_and_every_epoch(tmp_path: Path) -> None:
    _, folder = finish(tmp_path, "transform=shim")
    rows = [json.loads(line) for line in (folder / GEOMETRY).read_text().splitlines()]
    modules = {row["module"] for row in rows}
    assert sorted({row["epoch"] for row in rows}) == [0, 1, 2]
    assert len(rows) == 3 * len(modules)
    first, last = rows[0], next(row for row in rows if row["epoch"] == 2 and row["module"] == rows[0]["module"])
    assert first["singular_values"] != last["singular_values"]
    assert "module." not in min(modules)
