"""The forest plot of paired differences."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtlora.report.plots.style import grid, legend, settings_of, style
from mtlora.tables.captions import average_column, method_label
from mtlora.tables.view import View


def forest(view: View) -> tuple[Figure, str] | None:
    """Draw the paired differences with 95% intervals, a panel per setting."""
    found = [c for c in view.comparisons if not c.contrast and c.difference is not None]
    if not found:
        return None
    labels = list(dict.fromkeys(average_column(view.plan).label if c.task == "average" else c.label for c in found))
    settings = {name: rows for name, rows in settings_of(view).items() if any(c.row in rows for c in found)}
    scales = _panels_by_scale(view, labels)
    figure, axes = grid(len(settings) * len(scales), 4.2, 1.2 + 0.42 * max(map(len, scales)))
    for axis, (name, rows, chosen) in zip(axes, ((n, r, s) for n, r in settings.items() for s in scales), strict=True):
        methods = [row.method for row in rows if row.method != "lora"]
        for c in found:
            label = average_column(view.plan).label if c.task == "average" else c.label
            if c.row not in rows or label not in chosen or c.difference is None:
                continue
            y = chosen.index(label) + (methods.index(c.row.method) - (len(methods) - 1) / 2) * 0.17
            interval = c.difference.interval() or (c.difference.mean, c.difference.mean)
            look = style(c.row.method)
            axis.plot(interval, (y, y), color=look["color"], linestyle=look["linestyle"], linewidth=1.2)
            axis.plot(
                c.difference.mean,
                y,
                color=look["color"],
                marker=look["marker"],
                markersize=4,
                linestyle="none",
                label=method_label(c.row.method),
            )
        axis.axvline(0, color="#444444", linewidth=0.8)
        axis.set_yticks(range(len(chosen)), chosen)
        axis.set_ylim(len(chosen) - 0.5, -0.5)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("difference to LoRA, on the table's scale")
        _clip_x(axis, found, chosen)
    legend(figure, axes)
    return figure, (
        "MTLoRA less LoRA at the same task and seed: mean and 95% t interval. An interval that a few seeds leave wider than the "
        "panel is cut at its edge."
    )


def _panels_by_scale(view: View, labels: list[str]) -> list[list[str]]:
    """Return the labels by the number of decimals they are printed with: figures of another scale need another axis."""
    digits = {column.label: column.digits for column in view.plan.columns}
    groups: dict[int, list[str]] = {}
    for label in labels:
        groups.setdefault(digits.get(label, 2), []).append(label)
    return list(groups.values())


def _clip_x(axis: Axes, found: Iterable[Any], labels: list[str]) -> None:
    """Fit the axis to the estimates: with two seeds an interval can be a hundred times wider than every estimate."""
    chosen = [c for c in found if (c.label in labels or c.task == "average") and c.difference is not None]
    means = [abs(c.difference.mean) for c in chosen] or [0.0]
    errors = [c.difference.error or 0.0 for c in chosen] or [0.0]
    reach = 1.15 * (max(means) + 3 * float(np.median(errors)))
    low, high = axis.get_xlim()
    if reach > 0:
        axis.set_xlim(max(low, -reach), min(high, reach))
