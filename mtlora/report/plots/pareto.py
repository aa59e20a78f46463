"""Plots of score against cost, for any two quantities, with the methods that no other method beats in both."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mtlora.config.metrics import METRICS
from mtlora.report.plots.scores import headline_name, headline_points
from mtlora.report.plots.style import grid, legend, style
from mtlora.tables.aggregate import Row, mean_costs
from mtlora.tables.captions import method_label
from mtlora.tables.view import View

Name = Literal["score", "parameters", "seconds", "step", "memory"]

# name -> column of the cost, factor, name of the axis
COSTS: dict[str, tuple[str, float, str]] = {
    "parameters": ("adapter_parameters", 1.0, "adapter parameters"),
    "seconds": ("seconds", 1.0, "time of a run, s"),
    "step": ("seconds_per_step", 1e3, "time of a step, ms"),
    "memory": ("peak_memory_bytes", 2.0**-20, "peak memory, MiB"),
}
PAIRS: tuple[tuple[Name, Name], ...] = (("parameters", "score"), ("step", "score"), ("memory", "score"))
WIDE = 20  # a larger ratio of the greatest to the smallest cost needs a logarithmic axis


@dataclass(frozen=True)
class Quantity:
    """A quantity of each row that has it."""

    label: str
    values: dict[Row, float]
    errors: dict[Row, float]  # none for costs
    higher_is_better: bool


def quantity(view: View, name: Name) -> Quantity:
    """Return the headline score, or a cost: the mean over the tasks for which all rows know it."""
    if name == "score":
        found = headline_points(view)
        metric = view.plan.experiment.headline.metric
        higher = metric not in METRICS or METRICS[metric].higher_is_better
        scores = {row: mean for row, (mean, _) in found.items()}
        errors = {row: error for row, (_, error) in found.items() if isfinite(error)}
        return Quantity(headline_name(view), scores, errors, higher)
    column, factor, label = COSTS[name]
    means = mean_costs(view.cost, column)[0].reset_index()
    values = {Row.of(item): factor * item[column] for item in means.to_dict("records")}
    return Quantity(label, {row: value for row, value in values.items() if value > 0}, {}, False)


def front(points: Sequence[tuple[float, float]], higher_is_better: tuple[bool, bool]) -> list[int]:
    """Return the points that no other one beats: at least as good in both quantities, and better in one.

    Returns:
        Their indices, in ascending order of the first quantity.
    """
    signs = [1 if higher else -1 for higher in higher_is_better]
    ranked = [(signs[0] * x, signs[1] * y) for x, y in points]
    best = [
        i
        for i, own in enumerate(ranked)
        if not any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in ranked)
    ]
    return sorted(best, key=lambda i: points[i])


def pareto(view: View, pairs: Sequence[tuple[Name, Name]] = PAIRS) -> tuple[Figure, str] | None:
    """Draw pairs of quantities, a panel each for every model and protocol; a pair that fewer than two rows have is left out."""
    panels = []
    settings = list(dict.fromkeys((row.model, row.protocol) for row in view.rows))
    for setting in settings:
        for names in pairs:
            x, y = (quantity(view, name) for name in names)
            rows = [r for r in view.rows if (r.model, r.protocol) == setting and r in x.values and r in y.values]
            if len(rows) > 1:  # a single method has nothing to be compared with
                title = ", ".join(
                    own
                    for own, values in zip(setting, zip(*settings, strict=True), strict=True)
                    if len(set(values)) > 1
                )
                panels.append((title, rows, x, y))
    if not panels:
        return None
    figure, axes = grid(len(panels))
    for axis, (title, rows, x, y) in zip(axes, panels, strict=True):
        _draw(axis, rows, x, y)
        axis.set_title(title, fontsize=9)
    legend(figure, axes)
    return figure, (
        "Points are means; error bars of scores are the sample standard deviation over seeds. The grey line joins the methods "
        "whose means no other method beats in both quantities. The head's parameters, equal for all, are left out. "
        "Time and memory are those of runs that trained alone; they are no benchmark, since the machine may have done other work."
    )


def _draw(axis: Axes, rows: Sequence[Row], x: Quantity, y: Quantity) -> None:
    points = [(x.values[row], y.values[row]) for row in rows]
    best = front(points, (x.higher_is_better, y.higher_is_better))
    # the corners lie where one of the two quantities is the worse one, so that the line bounds what was reached
    where: Literal["pre", "post"] = "pre" if x.higher_is_better else "post"
    if len(best) > 1:
        xs, ys = zip(*(points[i] for i in best), strict=True)
        axis.step(xs, ys, where=where, color="#888888", linewidth=1.0, zorder=1)
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        axis.errorbar(
            [x.values[row] for row in own],
            [y.values[row] for row in own],
            xerr=[x.errors.get(row, 0.0) for row in own] if x.errors else None,
            yerr=[y.errors.get(row, 0.0) for row in own] if y.errors else None,
            capsize=2,
            label=method_label(method),
            **style(method) | {"linestyle": "none"},
        )
    for side, values, scale in ((0, x, axis.set_xscale), (1, y, axis.set_yscale)):
        reach = [point[side] for point in points]
        if not values.errors and min(reach) > 0 and max(reach) / min(reach) > WIDE:
            scale("log")
        elif side == 0:
            axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    axis.set_xlabel(x.label)
    axis.set_ylabel(y.label)
