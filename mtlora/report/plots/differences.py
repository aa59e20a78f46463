"""The forest plot of paired differences."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtlora.report.plots.style import grid, legend, settings_of, style
from mtlora.tables.captions import method_label
from mtlora.tables.comparison import Comparison
from mtlora.tables.statistics import Difference
from mtlora.tables.view import View


def forest(view: View) -> tuple[Figure, str] | None:
    """Draw the paired differences with their intervals, a panel per setting."""
    found = [c for c in view.comparisons if not c.contrast and c.difference is not None]
    if not found:
        return None
    settings = {name: rows for name, rows in settings_of(view).items() if any(c.row in rows for c in found)}
    scales = _panels_by_scale(found)
    figure, axes = grid(len(settings) * len(scales), 4.2, 1.2 + 0.42 * max(map(len, scales)))
    for axis, (name, rows, chosen) in zip(axes, ((n, r, s) for n, r in settings.items() for s in scales), strict=True):
        methods = [row.method for row in rows if row.method != "lora"]
        gap = min(0.17, 0.8 / max(1, len(methods)))  # many methods must not reach the next label
        for c in found:
            if c.row not in rows or c.label not in chosen or c.difference is None:
                continue
            y = chosen.index(c.label) + (methods.index(c.row.method) - (len(methods) - 1) / 2) * gap
            interval = c.interval or (c.difference.mean, c.difference.mean)
            look = style(c.row.method)
            axis.plot(interval, (y, y), color=look["color"], linestyle=look["linestyle"], linewidth=1.2)
            point = look | {"linestyle": "none"}
            axis.plot(c.difference.mean, y, label=method_label(c.row.method), **point)
        axis.axvline(0, color="#444444", linewidth=0.8)
        axis.set_yticks(range(len(chosen)), chosen)
        axis.set_ylim(len(chosen) - 0.5, -0.5)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("difference to LoRA, on the table's scale")
        _clip_x(axis, [c.difference for c in found if c.difference is not None and c.label in chosen])
    legend(figure, axes)
    return figure, (
        f"Method less LoRA at the same task and seed: mean and t interval, {_levels(found)}. An interval that is wider than the "
        "panel is cut at its edge."
    )


def _levels(comparisons: Sequence[Comparison]) -> str:
    """Say at which level the intervals are: simultaneous for the figure with verdicts, 95% for the others."""
    heads = sorted({c.level for c in comparisons if c.head})
    return " and ".join([*(f"{level:.2%} for the figure with verdicts" for level in heads), "95% for each other one"])


def _panels_by_scale(comparisons: Iterable[Comparison]) -> list[list[str]]:
    """Group the labels by number of decimals, since figures on different scales need different axes."""
    groups: dict[int, dict[str, None]] = {}
    for c in comparisons:
        groups.setdefault(c.digits, {})[c.label] = None
    return [list(labels) for labels in groups.values()]


def _clip_x(axis: Axes, differences: Sequence[Difference]) -> None:
    """Fit the axis to the estimates: with two seeds an interval can be a hundred times wider than every estimate."""
    errors = [d.error or 0.0 for d in differences]
    reach = 1.15 * (max(abs(d.mean) for d in differences) + 3 * float(np.median(errors)))
    low, high = axis.get_xlim()
    if reach > 0:
        axis.set_xlim(max(low, -reach), min(high, reach))
