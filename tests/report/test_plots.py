"""The data behind the figures of cost and of learning rates."""

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from helpers.record_files import make_record, save_record
from helpers.shipped import METHODS as SHIPPED
from helpers.tuning_files import make_tuning, write_tuning
from matplotlib.axes import Axes

from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.report.plots import draw_all
from mtlora.report.plots.differences import forest
from mtlora.report.plots.pareto import costs_of, front, pareto
from mtlora.report.plots.rates import best_by_number, best_curves, score_by_rate
from mtlora.report.plots.style import OTHER, STYLES, style
from mtlora.tables.evidence import load_evidence
from mtlora.tables.tuning import task_groups
from mtlora.tables.view import View

ACCURACY = ("accuracy", "validation")
FACTORS = [0.25, 0.5, 0.70711, 1.0, 2.0]
METHODS = ["lora", "shim", "dora"]


@lru_cache
def plan_of(*overrides: str) -> Plan:
    return make_plan(load_experiment("glue"), ["model=tiny", *overrides])


# method -> accuracy, adapter parameters, seconds of a step, whether it trained in a cohort
COSTS = {"lora": (0.60, 100, 0.010, False), "shim": (0.64, 120, 0.020, False), "dora": (0.62, 120, 0.008, True)}


def costly_view(folder: Path) -> View:
    plan = plan_of("task=rte", "transform=lora,shim,dora", "seed=0,1")
    for cell in plan.cells:
        value, parameters, seconds, cohort = COSTS[cell.config.adapter.method]
        value += 0.01 * (cell.config.seed - 0.5)
        record = make_record(cell, {ACCURACY: (value, value)})
        record.parameters["adapter"] = parameters
        record.cost |= {"train_seconds": 4 * seconds, "peak_memory_bytes": parameters * 2**20}
        if cohort:
            record.provenance["cohort"] = {"id": "0", "runs": 1, "members": [record.run_id]}
        save_record(folder / "runs", record)
    return View(plan, load_evidence(folder / "runs"))


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1, 5), (2, 4), (3, 7), (4, 7)], [0, 2]),
        ([(3, 7), (1, 5), (2, 6)], [1, 2, 0]),  # in ascending order of the cost
        ([(1, 5), (1, 5), (2, 4)], [0, 1]),  # equal ones do not beat each other
        ([(1, 5), (1, 6)], [1]),
        ([(1, 5)], [0]),
    ],
)
def test_front(points: list[tuple[float, float]], expected: list[int]) -> None:
    assert front(points) == expected


def test_costs(tmp_path: Path) -> None:
    view = costly_view(tmp_path)

    def values(column: str, factor: float = 1.0) -> dict[str, float]:
        return {row.method: value for row, value in costs_of(view, column, factor).items()}

    assert values("adapter_parameters") == {"lora": 100, "shim": 120, "dora": 120}
    assert values("seconds_per_step", 1e3) == pytest.approx({"lora": 10.0, "shim": 20.0}), "DoRA trained in a cohort"
    assert values("peak_memory_bytes", 2.0**-20) == {"lora": 100, "shim": 120}


def lines(axis: Axes) -> dict[str, list[tuple[float, float]]]:
    """Return the points of the labelled lines and bars of a panel."""
    found = {}
    for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
        line = handle if hasattr(handle, "get_xdata") else handle.lines[0]
        found[label] = list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))
    return found


def steps(axis: Axes) -> list[list[tuple[float, float]]]:
    chosen = [line for line in axis.get_lines() if line.get_drawstyle().startswith("steps")]
    return [list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True)) for line in chosen]


def test_pareto_panels(tmp_path: Path) -> None:
    made = pareto(costly_view(tmp_path))
    assert made is not None
    parameters, step, memory = made[0].axes
    assert [axis.get_xlabel() for axis in made[0].axes] == [
        "adapter parameters",
        "time of a step, ms",
        "peak memory, MiB",
    ]
    assert {axis.get_ylabel() for axis in made[0].axes} == {"RTE (x 100)"}
    assert list(lines(parameters)) == ["LoRA", "MTLoRA SHIM", "DoRA"]
    assert list(lines(step)) == ["LoRA", "MTLoRA SHIM"]
    assert np.array(steps(parameters)) == pytest.approx(np.array([[(100, 60), (120, 64)]]))
    assert np.array(steps(step)) == pytest.approx(np.array([[(10, 60), (20, 64)]]))
    assert len(steps(memory)) == 1


def test_nothing_to_draw_without_runs(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    plan = plan_of("task=rte", "transform=lora", "seed=0", f"results={tmp_path}")
    view = View(plan, load_evidence(tmp_path / "runs"))
    assert (pareto(view), score_by_rate(view), best_by_number(view)) == (None, None, None)


def test_one_epoch_is_no_curve_and_one_method_no_comparison(tmp_path: Path) -> None:
    (cell,) = plan_of("task=rte", "transform=lora", "seed=0").cells
    record = make_record(cell, {ACCURACY: (0.6, 0.6)})
    for epochs, drawn in ((1, []), (2, ["glue_curves"])):
        record.epochs = [{"epoch": n, "metrics": {"validation": {"accuracy": 0.5}}} for n in range(epochs)]
        save_record(tmp_path / "runs", record)
        view = View(plan_of("task=rte", "transform=lora", "seed=0"), load_evidence(tmp_path / "runs"))
        assert [plot.name for plot in draw_all(view, tmp_path / "figures")] == drawn


def test_panels_reserve_their_place_and_are_described(tmp_path: Path) -> None:
    costs = next(plot for plot in draw_all(costly_view(tmp_path), tmp_path / "figures") if plot.name == "glue_pareto")
    assert [mark.alt for mark in costs.legend] == ["LoRA", "MTLoRA SHIM", "DoRA"]
    assert len(costs.panels) == 3
    for panel, quantity_name in zip(costs.panels, ("adapter parameters", "time of a step", "peak memory"), strict=True):
        assert quantity_name in panel.alt
        assert all(200 < pixels < 400 for pixels in panel.size), "a panel fits a phone without being scaled down"


def test_an_interval_that_is_cut_has_an_arrow(tmp_path: Path) -> None:
    plan = plan_of("task=rte", "transform=lora,shim,dora", "seed=0,1")
    gains = {"lora": (0.0, 0.0), "shim": (0.010, 0.011), "dora": (0.01, 0.03)}
    for cell in plan.cells:
        value = 0.6 + gains[cell.config.adapter.method][cell.config.seed]
        save_record(tmp_path / "runs", make_record(cell, {ACCURACY: (value, value)}))
    made = forest(View(plan, load_evidence(tmp_path / "runs")))
    assert made is not None
    (axis,) = made[0].axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["RTE"], "one task is the average"
    arrows = [
        (line.get_marker(), float(line.get_xdata()[0])) for line in axis.get_lines() if line.get_marker() in ("<", ">")
    ]
    assert ("<", axis.get_xlim()[0]) in arrows
    assert (">", axis.get_xlim()[1]) in arrows
    assert axis.get_xlabel() == "difference to LoRA, in points"


def test_a_forest_of_text_metrics_says_which_are_better_lower(tmp_path: Path) -> None:
    plan = make_plan(load_experiment("webnlg"), ["transform=lora,shim", "seed=0,1"])
    for cell in plan.cells:
        low = cell.config.adapter.method == "lora"
        values = {"bleu": 40.0 + low, "meteor": 0.3, "ter": 0.5}
        metrics = {
            (name, split): (value, value) for split in ("test_U", "test_S", "test_A") for name, value in values.items()
        }
        save_record(tmp_path / "runs", make_record(cell, metrics))
    made = forest(View(plan, load_evidence(tmp_path / "runs")))
    assert made is not None
    assert [axis.get_xlabel() for axis in made[0].axes] == ["difference to LoRA, in points", "difference to LoRA"]
    assert "Lower is better for TER U, TER S, TER A." in made[1]


def score(method: str, task: str, factor: float, seed: int) -> float | None:
    if method == "dora" and factor == 2.0 and seed == 101:
        return None
    best = {"lora": 0.0, "shim": -1.0, "dora": -0.5}[method]
    return 60 + 10 * (task == "stsb") - 4 * (math.log2(factor) - best) ** 2 + (seed - 100)


def rates_view(folder: Path, groups: list[list[str]], majority: float = 50.0, methods: list[str] = METHODS) -> View:
    plan = plan_of("task=rte,stsb", "transform=lora,shim,dora", "seed=0", f"results={folder}")
    write_tuning(plan, make_tuning(methods, groups, FACTORS, score, majority=majority))
    return View(plan, load_evidence(folder / "runs"))


def marked(axis: Axes, marker: str) -> list[tuple[float, float]]:
    """Return the points of the rings (o without a filling) or the crosses of a panel."""
    found = [
        line
        for line in axis.get_lines()
        if line.get_marker() == marker and (marker == "x" or line.get_markerfacecolor() == "none")
    ]
    return [(float(x), float(y)) for line in found for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_score_by_rate_of_a_suite(tmp_path: Path) -> None:
    made = score_by_rate(rates_view(tmp_path, [["rte", "stsb"]]))
    assert made is not None
    mean, rte, stsb = made[0].axes
    assert [axis.get_title() for axis in made[0].axes] == ["mean over rte, stsb", "rte", "stsb"]
    assert mean.get_ylabel() == "mean held-out score"
    shown = lines(mean)
    assert list(shown) == ["LoRA", "MTLoRA SHIM", "DoRA", "chosen", "diverged"]
    assert shown["LoRA"] == [(f, pytest.approx(65.5 - 4 * math.log2(f) ** 2)) for f in FACTORS]
    assert lines(rte)["LoRA"] == [(f, pytest.approx(60.5 - 4 * math.log2(f) ** 2)) for f in FACTORS]
    assert marked(mean, "o") == [(1.0, 65.5), (0.5, 65.5), (0.70711, pytest.approx(65.5))]
    assert [x for x, _ in marked(stsb, "o")] == [1.0, 0.5, 0.70711]
    assert marked(rte, "x") == [(2.0, 50.0)]
    assert mean.get_xscale() == "log"
    assert [label.get_text() for label in mean.get_xticklabels()] == ["0.25", "0.5", "1", "2"]
    seeds = [line for line in mean.get_lines() if line.get_alpha() == 0.35]
    assert [len(line.get_xdata()) for line in seeds] == [10, 10, 9], "a point a seed; the one that diverged is a cross"
    assert "a cross" in made[1].lower()
    assert "majority answer" in made[1]


@pytest.mark.parametrize("diverged", [False, True])
def test_a_rate_that_ruins_a_method_does_not_flatten_the_others(diverged: bool, tmp_path: Path) -> None:
    def ruined(method: str, task: str, factor: float, seed: int) -> float | None:
        if (method, factor) == ("lora", 2.0):
            return None if diverged else -700.0
        return 60 - math.log2(factor) ** 2 + 5 * (seed - 100)

    plan = plan_of("task=rte", "transform=lora,shim", "seed=0", f"results={tmp_path}")
    write_tuning(plan, make_tuning(["lora", "shim"], [["rte"]], FACTORS, ruined, majority=-700.0))
    made = score_by_rate(View(plan, load_evidence(tmp_path / "runs")))
    assert made is not None
    (axis,) = made[0].axes
    low, high = axis.get_ylim()
    assert 50 < low < 56, "the lowest seed of another rate is drawn"
    assert 65 < high < 70
    at_edge = [line for line in axis.get_lines() if list(line.get_ydata())[:1] == [low]]
    assert [(line.get_marker(), line.get_color()) for line in at_edge] == [
        ("v", "#000000"),
        *[("x", "#000000")] * diverged,
    ]
    assert all(line.get_xdata()[0] == pytest.approx(2.0, rel=0.1) for line in at_edge)
    assert "An arrow" in made[1]


@pytest.mark.parametrize("rest", [58.0, 60.0])
def test_nothing_is_cut_where_all_scores_are_near_or_equal(rest: float, tmp_path: Path) -> None:
    plan = plan_of("task=rte", "transform=lora", "seed=0", f"results={tmp_path}")
    tuning = make_tuning(["lora"], [["rte"]], FACTORS, lambda m, t, factor, s: 59.0 if factor == 2.0 else rest)
    write_tuning(plan, tuning)
    made = score_by_rate(View(plan, load_evidence(tmp_path / "runs")))
    assert made is not None
    assert made[0].axes[0].get_ylim()[0] < 59
    assert "An arrow" not in made[1]


def test_score_by_rate_of_each_task(tmp_path: Path) -> None:
    made = score_by_rate(rates_view(tmp_path, [["rte"], ["stsb"]], methods=["lora", "shim"]))
    assert made is not None
    assert [axis.get_title() for axis in made[0].axes] == ["rte", "stsb"]
    assert {axis.get_ylabel() for axis in made[0].axes} == {"held-out score"}
    assert "diverged" not in lines(made[0].axes[0])
    assert "cross" not in made[1]


def test_a_loss_that_was_never_finite_is_marked_at_the_edge(tmp_path: Path) -> None:
    view = rates_view(tmp_path, [["rte", "stsb"]], majority=-math.inf)
    made, best = score_by_rate(view), best_by_number(view)
    assert made is not None
    assert best is not None
    ((_, height),) = marked(made[0].axes[1], "x")
    assert math.isfinite(height)
    assert "lower edge" in made[1]
    dora = lines(best[0].axes[0])["DoRA"]
    assert [math.isfinite(y) for _, y in dora] == [False, True, True, True, True]
    assert "a finite loss is sure" in best[1]


def test_best_by_number(tmp_path: Path) -> None:
    view = rates_view(tmp_path, [["rte", "stsb"]])
    assert view.tuning is not None
    (group,) = task_groups(view.tuning)
    means = [65.5 - 4 * math.log2(f) ** 2 for f in FACTORS]
    curve = best_curves(group)["lora"]
    assert (curve[0], curve[-1]) == (pytest.approx(sum(means) / 5), pytest.approx(max(means)))
    made = best_by_number(view)
    assert made is not None
    (axis,) = made[0].axes
    assert lines(axis)["LoRA"] == list(zip([1.0, 2.0, 3.0, 4.0, 5.0], curve, strict=True))
    assert "2004.13705" in made[1]


def test_methods_look_different() -> None:
    methods = list(SHIPPED)
    looks = {method: style(method) for method in methods}
    assert {method for method, look in looks.items() if look["color"] == OTHER[0]} == set()
    assert len({(str(k["linestyle"]), k["marker"], k.get("markerfacecolor")) for k in looks.values()}) == len(methods)
    assert len({look[0] for look in STYLES.values()} | {OTHER[0]}) == len(STYLES) + 1
    assert all(look["marker"] != "x" for look in [*looks.values(), style("unknown")])
    for structure in ("shim", "icfm", "ctcm", "dtsm"):
        frozen = looks[f"{structure}_frozen"]
        assert frozen["color"] == looks[structure]["color"]
        assert frozen["linestyle"] == (0, (2, 2))
