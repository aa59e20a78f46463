"""Plots of score against cost, with the methods that no other method matches in both and beats in one."""

from collections.abc import Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mtlora.report.plots.scores import headline_name, headline_points
from mtlora.report.plots.style import grid, legend, style
from mtlora.tables.aggregate import Row, mean_costs
from mtlora.tables.captions import method_label
from mtlora.tables.view import View

COSTS = (  # column of the cost, factor, name of the axis
    ("adapter_parameters", 1.0, "adapter parameters"),
    ("seconds_per_step", 1e3, "time of a step, ms"),
    ("peak_memory_bytes", 2.0**-20, "peak memory, MiB"),
)
WIDE = 20  # a larger ratio of the greatest to the smallest cost needs a logarithmic axis


def costs_of(view: View, column: str, factor: float) -> dict[Row, float]:
    """Return a cost of each row that has it: the mean over the tasks for which all rows know it."""
    means = mean_costs(view.cost, column)[0].reset_index()
    values = {Row.of(item): factor * item[column] for item in means.to_dict("records")}
    return {row: value for row, value in values.items() if value > 0}


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the points (cost, score) that no other one beats: at most the cost, at least the score, and better in one.

    Returns:
        Their indices, in ascending order of the cost.
    """
    best = [
        i for i, own in enumerate(points) if not any(p != own and p[0] <= own[0] and p[1] >= own[1] for p in points)
    ]
    return sorted(best, key=lambda i: points[i])


def pareto(view: View) -> tuple[Figure, str] | None:
    """Draw the headline score against each cost that two rows have, a panel for every model and protocol."""
    panels = []
    scores = headline_points(view)
    settings = list(dict.fromkeys((row.model, row.protocol) for row in view.rows))
    for setting in settings:
        for column, factor, label in COSTS:
            costs = costs_of(view, column, factor)
            rows = [r for r in view.rows if (r.model, r.protocol) == setting and r in costs and r in scores]
            if len(rows) > 1:  # a single method has nothing to be compared with
                title = ", ".join(
                    own
                    for own, values in zip(setting, zip(*settings, strict=True), strict=True)
                    if len(set(values)) > 1
                )
                panels.append((title, label, {row: (costs[row], *scores[row]) for row in rows}))
    if not panels:
        return None
    figure, axes = grid(len(panels))
    for axis, (title, label, points) in zip(axes, panels, strict=True):
        _draw(axis, points)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(label)
        axis.set_ylabel(headline_name(view))
    legend(figure, axes)
    return figure, (
        "Points are means; error bars of scores are the sample standard deviation over seeds. The grey line joins the methods "
        "whose means no other method matches in both quantities and beats in one. The head's parameters, equal for all, are left "
        "out. Time and memory are those of runs that trained alone; they are no benchmark, since the machine may have done other "
        "work."
    )


def _draw(axis: Axes, points: dict[Row, tuple[float, float, float]]) -> None:
    """Draw the cost, mean score and standard deviation of each row."""
    found = [(cost, score) for cost, score, _ in points.values()]
    best = front(found)
    if len(best) > 1:
        xs, ys = zip(*(found[i] for i in best), strict=True)
        # each corner has the higher cost and the lower score of its two points, so that the line bounds what was reached
        axis.step(xs, ys, where="post", color="#888888", linewidth=1.0, zorder=1)
    for method in dict.fromkeys(row.method for row in points):
        x, y, errors = zip(*(values for row, values in points.items() if row.method == method), strict=True)
        bars = [error if isfinite(error) else 0.0 for error in errors]
        axis.errorbar(
            x,
            y,
            yerr=bars if any(bars) else None,
            capsize=2,
            label=method_label(method),
            **style(method) | {"linestyle": "none"},
        )
    reach = [cost for cost, _ in found]
    if max(reach) / min(reach) > WIDE:
        axis.set_xscale("log")
    else:
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
