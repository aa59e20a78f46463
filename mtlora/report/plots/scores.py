"""The headline score, and its plot against the rank."""

import numpy as np
from matplotlib.figure import Figure

from mtlora.report.plots.style import grid, legend, style
from mtlora.tables.aggregate import Row, average_column, scale_of
from mtlora.tables.captions import method_label
from mtlora.tables.view import View


def headline_points(view: View) -> dict[Row, tuple[float, float]]:
    """Return the mean and the deviation of the headline score by row."""
    found = view.headline(view.plan.experiment.selection)
    return {row: (item["mean"], item["std"]) for row, item in found.items()}


def headline_name(view: View) -> str:
    """Name the headline score and its scale."""
    h = view.plan.experiment.headline
    average = h.task == "average"
    name = average_column(view.plan).label if average else f"{h.metric}, {h.split.replace('_', ' ')}"
    columns = [c for c in view.plan.columns if average or (c.task, c.split, c.metric) == (h.task, h.split, h.metric)]
    return f"{name} (x 100)" if all(scale_of(c) == 100 for c in columns) else name


def score_by_rank(view: View) -> tuple[Figure, str] | None:
    """Draw the headline score against the rank, if there are several ranks."""
    points = headline_points(view)
    ranks = sorted({row.rank for row in points})
    if len(ranks) < 2:
        return None
    settings = list(dict.fromkeys((row.model, row.targets, row.protocol, row.variant) for row in view.rows))
    figure, axes = grid(len(settings))
    for axis, setting in zip(axes, settings, strict=True):
        for method in dict.fromkeys(row.method for row in view.rows):
            rows = [r for r in points if r.method == method and (r.model, r.targets, r.protocol, r.variant) == setting]
            rows.sort(key=lambda row: row.rank)
            if rows:
                x, (y, error) = [row.rank for row in rows], zip(*(points[row] for row in rows), strict=True)
                axis.errorbar(x, y, yerr=np.nan_to_num(error), capsize=2, label=method_label(method), **style(method))
        axis.set_xscale("log", base=2)
        axis.set_xticks(ranks, list(map(str, ranks)))
        axis.set_xlabel("rank r")
        axis.set_ylabel(headline_name(view))
        axis.set_title(" ".join(value for value in setting if value) if len(settings) > 1 else "", fontsize=9)
    legend(figure, axes)
    return figure, "Mean and sample standard deviation over seeds."
