"""The headline figure against the rank and against the number of parameters."""

import numpy as np
from matplotlib.figure import Figure

from mtlora.report.plots.style import grid, legend, style
from mtlora.tables.captions import average_column, method_label
from mtlora.tables.comparison import Row
from mtlora.tables.view import View


def _headline_points(view: View) -> dict[Row, tuple[float, float]]:
    """Return the mean and the deviation of the headline figure by row."""
    h = view.plan.experiment.headline
    table = view.summary
    match = (table["task"] == h.task) & (table["metric"] == h.metric) & (table["split"] == h.split)
    chosen = table[match & (table["selection"] == view.plan.experiment.selection)]
    return {
        (r["model"], r["method"], r["rank"], r["targets"], r["variant"]): (r["mean"], r["std"])
        for r in chosen.to_dict("records")
    }


def _headline_name(view: View) -> str:
    h = view.plan.experiment.headline
    return average_column(view.plan).label if h.task == "average" else f"{h.metric}, {h.split.replace('_', ' ')}"


def score_by_rank(view: View) -> tuple[Figure, str] | None:
    """Draw the headline figure against the rank, where there are several."""
    points = _headline_points(view)
    if len({row[2] for row in points}) < 2:
        return None
    settings = list(dict.fromkeys((row[0], *row[3:]) for row in view.rows))  # everything but method and rank
    figure, axes = grid(len(settings), 5.0, 3.2)
    for axis, setting in zip(axes, settings, strict=True):
        for method in dict.fromkeys(row[1] for row in view.rows):
            rows = [row for row in points if row[1] == method and (row[0], *row[3:]) == setting]
            rows.sort(key=lambda row: row[2])
            if rows:
                x, (y, error) = [row[2] for row in rows], zip(*(points[row] for row in rows), strict=True)
                axis.errorbar(x, y, yerr=np.nan_to_num(error), capsize=2, label=method_label(method), **style(method))
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted({row[2] for row in points}), [str(r) for r in sorted({row[2] for row in points})])
        axis.set_xlabel("rank r")
        axis.set_ylabel(_headline_name(view))
        axis.set_title(" ".join(str(v) for v in setting if v) if len(settings) > 1 else "", fontsize=9)
    legend(figure, axes)
    return figure, "Mean and sample standard deviation over seeds."


def score_by_parameters(view: View) -> tuple[Figure, str] | None:
    """Draw the headline figure against the number of adapter parameters."""
    points = _headline_points(view)
    if not points:
        return None
    sizes: dict[Row, float] = {}
    for item in view.cost.to_dict("records"):
        sizes[tuple(item[k] for k in ("model", "method", "rank", "targets", "variant"))] = item["adapter_parameters"]
    figure, axes = grid(1, 5.0, 3.2)
    for method in dict.fromkeys(row[1] for row in view.rows):
        rows = sorted((r for r in points if r[1] == method and sizes.get(r, 0) > 0), key=lambda row: sizes[row])
        if not rows:
            continue
        y, error = zip(*(points[row] for row in rows), strict=True)
        look = style(method) | {"linestyle": "none"}
        axes[0].errorbar(
            [sizes[r] for r in rows], y, yerr=np.nan_to_num(error), capsize=2, label=method_label(method), **look
        )
    axes[0].set_xlabel("adapter parameters")
    axes[0].set_ylabel(_headline_name(view))
    legend(figure, axes)
    return figure, "Mean and sample standard deviation over seeds; the head's parameters, equal for all, are left out."
