"""The time that a plan needs, from finished runs or by a measured rate."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from helpers.record_files import make_record
from rich.console import Console

from mtlora.plan.cell import Cell
from mtlora.plan.estimate import estimate, overhead_of
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.plan.show import show

SHORT = ("model=tiny", "train.limit_examples=64", "train.epochs=1", "seed=0")


@lru_cache
def plan_of(*overrides: str) -> Plan:
    return make_plan(load_experiment("glue"), overrides)


def finish(cell: Cell, seconds: float, decoding: float = 0.0, **made: Any) -> None:
    record = make_record(cell, {})
    record.provenance |= made  # type: ignore[typeddict-item]
    record.cost |= {"seconds": seconds - decoding} | ({"decode_seconds": decoding} if decoding else {})
    record.save(cell.folder)


def test_estimate_from_finished_runs(tmp_path: Path) -> None:
    plan = plan_of("profile=paper", "task=cola", "transform=lora,shim", "seed=0,1", f"results={tmp_path}")
    lora, shim, _, left = plan.cells
    assert (lora.config.seed, left.config.seed, left.config.adapter.structure) == (0, 1, "shim")
    finish(lora, 10)
    cost = estimate([left], plan.cells)
    # CoLA: 8,551 rows forward and backward, 1,043 forward, 80 epochs, 11.3 tokens a row; 85,054,464 parameters.
    assert cost.flops == pytest.approx(2 * 85_054_464 * 11.3 * 80 * (2 * 8551 + 1043))
    assert cost.tokens == pytest.approx(11.3 * 80 * 8551)
    assert cost.seconds == pytest.approx(10), "a run of another method of the same task and model"
    assert cost.basis == "from 1 finished run"
    finish(shim, 20)
    cost = estimate([left, left], plan.cells)
    assert cost.seconds == pytest.approx(2 * 15), "the median of any method"
    assert cost.basis == "from 2 finished runs"
    other = plan_of("profile=paper", "task=rte", "transform=lora", "seed=0", f"results={tmp_path}").cells[0]
    mixed = estimate([other], [*plan.cells, other])
    assert mixed.seconds == pytest.approx(15 * mixed.flops / cost.flops * 2), "of another task: by operations"
    finish(other, 40)
    both = plan_of("profile=paper", "task=rte,cola", "transform=lora", "seed=0,1", f"results={tmp_path}").cells
    known = estimate([both[2], both[3]], [*plan.cells, *both])
    assert known.seconds == pytest.approx(40 + 15), "each task by its own runs"
    assert estimate([]).seconds == 0


def test_full_fine_tuning_has_gradients_of_the_weights_too() -> None:
    lora, full = plan_of("profile=paper", "task=cola", "transform=lora,full", "seed=0").cells
    assert estimate([full]).flops / estimate([lora]).flops == pytest.approx((3 * 8551 + 1043) / (2 * 8551 + 1043))


def test_runs_on_another_device_do_not_count(tmp_path: Path) -> None:
    plan = plan_of(*SHORT[:3], "task=rte", "transform=lora", "seed=0,1,2,3", f"results={tmp_path}")
    for cell, (device, day, seconds) in zip(plan.cells, [("GPU", 1, 1), ("CPU", 2, 60), ("GPU", 1, 2)], strict=False):
        finish(cell, seconds, device=device, ended=f"2026-01-0{day}T00:00:00+00:00")
    cost = estimate(plan.cells[3:], plan.cells)
    assert (cost.seconds, cost.basis) == (pytest.approx(60), "from 1 finished run on CPU"), "records brought from a GPU"


def test_longer_runs_take_longer(tmp_path: Path) -> None:
    plan = plan_of(*SHORT[:2], "task=rte", "transform=lora", "seed=0", "train.epochs=1,3", f"results={tmp_path}")
    finish(plan.cells[0], 10)
    assert estimate(plan.cells[1:], plan.cells).seconds == pytest.approx(30)


def test_decoding_counts(tmp_path: Path) -> None:
    plan = make_plan(load_experiment("webnlg"), ["transform=lora,shim", "seed=0", f"results={tmp_path}"])
    finish(plan.cells[0], 50, decoding=20)
    assert estimate(plan.cells[1:], plan.cells).seconds == pytest.approx(50)


def test_estimate_states_its_error(tmp_path: Path) -> None:
    plan = plan_of(*SHORT[:3], "task=rte", "transform=lora,shim,icfm", "seed=0,1", f"results={tmp_path}")
    for cell, seconds in zip(plan.cells[:3], (10, 20, 30), strict=True):
        finish(cell, seconds)
    # from the others: (20 + 30) / 2 for 10, (10 + 30) / 2 for 20, (10 + 20) / 2 for 30: off by 150%, 0% and 50%
    basis = estimate(plan.cells[3:], plan.cells).basis
    assert basis == "from 3 finished runs; the median error, when each is predicted from the others, is 50%"


def test_without_finished_runs_the_time_is_a_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = plan_of(*SHORT, "task=rte", "compute.device=cpu", "compute.cpu_gemm=stock", f"results={tmp_path}").cells
    asked = []

    def measured(*arguments: str) -> tuple[float, str]:
        asked.append(arguments)
        return 2e9, "cpu"

    monkeypatch.setattr("mtlora.plan.estimate.measured_in_child", measured)
    cost = estimate(cells)
    assert asked == [("cpu", "stock")], "the device and the library of the runs"
    assert cost.seconds == pytest.approx(cost.flops / 1e9), "half of the measured rate"
    assert cost.basis == "a guess: 50% of this machine's matrix-product rate"
    assert not cost.divisible


def test_start_up_and_the_scoring_of_texts_count(tmp_path: Path) -> None:
    (cell,) = plan_of(*SHORT, "task=rte", "transform=lora", f"results={tmp_path}").cells
    finish(cell, 10)
    assert estimate([cell]).overhead == 5
    given = [
        "profile=paper",
        "model=gpt2_medium",
        "transform=lora",
        "seed=0",
        "data.source=local",
        f"data.root={tmp_path}",
    ]
    for name in ("train", "dev", "test"):
        (tmp_path / f"dart-v1.1.1-full-{name}.json").write_text("[]")
    (text,) = make_plan(load_experiment("dart"), [*given, f"results={tmp_path}"]).cells
    assert overhead_of(text) == pytest.approx(5 + 10 + 0.02 * 4159), "METEOR over all contexts"


def test_years_are_not_shown_in_hours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = plan_of("profile=paper", "task=cola", "transform=lora", "seed=0", f"results={tmp_path}")
    finish(plan.cells[0], 80_000 * 3600)
    longer = plan_of("profile=paper", "task=cola", "transform=lora", "seed=0,1", f"results={tmp_path}")
    show(longer, Console(), 1)
    shown = " ".join(capsys.readouterr().out.split())
    assert "about 9 years on this machine one after another (from 1 finished run); 5 s of it for start-up" in shown
    assert re.search(r"about [\d.]+ min on one A100 \(a guess\)", shown)
