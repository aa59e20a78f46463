"""The forest plot of paired differences."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtlora.config.metrics import METRICS
from mtlora.report.plots.style import grid, legend, settings_of, style
from mtlora.tables.captions import method_label
from mtlora.tables.comparison import Comparison, against
from mtlora.tables.layout import percent
from mtlora.tables.view import View


def forest(view: View) -> tuple[Figure, str] | None:
    """Draw the paired differences with their intervals, a panel per setting."""
    found = [c for c in view.comparisons if not c.contrast and c.difference is not None]
    if len(view.plan.columns) == 1:  # a single task is the average, which has the verdict
        found = [c for c in found if c.head]
    if not found:
        return None
    settings = {name: rows for name, rows in settings_of(view).items() if any(c.row in rows for c in found)}
    scales = _panels_by_scale(found)
    figure, axes = grid(len(settings) * len(scales), (4.2, 1.2 + 0.42 * max(map(len, scales))))
    for axis, (name, rows, chosen) in zip(axes, ((n, r, s) for n, r in settings.items() for s in scales), strict=True):
        methods = [row.method for row in rows if row.method != "lora"]
        limits = _limits([c for c in found if c.label in chosen])
        axis.set_xlim(limits)
        _draw(axis, [c for c in found if c.row in rows and c.label in chosen], methods, chosen, limits)
        axis.set_title(name, fontsize=9)
    legend(figure, axes)
    lower = list(
        dict.fromkeys(c.label for c in found if c.task != "average" and not METRICS[c.metric].higher_is_better)
    )
    others = dict.fromkeys(against(c, method_label) for c in found if c.base.setting != c.row.setting)
    return figure, (
        f"Method less LoRA at the same task and seed: mean and t interval, {_levels(found)}. Grey: the margin of the score with "
        "the verdict. An arrow marks an interval that continues beyond the panel."
        + (f" Lower is better for {', '.join(lower)}." if lower else "")
        + (f" Where the experiment has no LoRA, less {' or '.join(others)}." if others else "")
    )


def _draw(
    axis: Axes, found: Sequence[Comparison], methods: Sequence[str], labels: Sequence[str], limits: tuple[float, float]
) -> None:
    """Draw a line of the panel for each label, with the methods side by side in it; an arrow at a limit that cuts an interval."""
    gap = min(0.17, 0.8 / max(1, len(methods)))  # many methods must not reach the next label
    for c in found:
        assert c.difference is not None
        middle = labels.index(c.label)
        if c.head:
            margin = c.head.margin
            axis.fill_betweenx([middle - 0.5, middle + 0.5], -margin, margin, color="#EBEBEB", linewidth=0, zorder=0)
        y = middle + (methods.index(c.row.method) - (len(methods) - 1) / 2) * gap
        interval = c.interval or (c.difference.mean, c.difference.mean)
        look = style(c.row.method)
        axis.plot(interval, (y, y), "|-", color=look["color"], linewidth=1.2, markersize=4)
        for end, mark in zip(interval, "<>", strict=True):
            if not limits[0] <= end <= limits[1]:
                axis.plot(np.clip(end, *limits), y, mark, color=look["color"], markersize=4, clip_on=False)
        axis.plot(c.difference.mean, y, label=method_label(c.row.method), **look | {"linestyle": "none"})
    axis.axvline(0, color="#444444", linewidth=0.8)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.tick_params(axis="y", pad=6)
    unit = ", in points" if all(map(_is_in_points, found)) else ""
    axis.set_xlabel(f"difference to LoRA{unit}")


def _levels(comparisons: Sequence[Comparison]) -> str:
    """Say at which level the intervals are: simultaneous for the score with the verdict, 95% for the others."""
    heads = sorted({c.level for c in comparisons if c.head})
    return " and ".join(
        [*(f"{percent(level)} for the score with the verdict" for level in heads), "95% for the others"]
    )


def _is_in_points(c: Comparison) -> bool:
    """Tell whether a score goes up to 100; the average is one of such scores."""
    return c.task == "average" or METRICS[c.metric].scale * METRICS[c.metric].highest == 100


def _panels_by_scale(comparisons: Iterable[Comparison]) -> list[list[str]]:
    """Group the labels by number of decimals, since scores on different scales need different axes."""
    groups: dict[int, dict[str, None]] = {}
    for c in comparisons:
        groups.setdefault(c.digits, {})[c.label] = None
    return [list(labels) for labels in groups.values()]


def _limits(found: Sequence[Comparison]) -> tuple[float, float]:
    """Fit an axis to the estimates: with two seeds an interval can be a hundred times wider than every estimate."""
    differences = [c.difference for c in found if c.difference is not None]
    reach = 1.15 * (max(abs(d.mean) for d in differences) + 5 * float(np.median([d.error or 0.0 for d in differences])))
    reach = max([reach, 1e-9, *(1.3 * c.head.margin for c in found if c.head)])
    ends = [
        1.05 * end for c in found for end in c.interval or ()
    ]  # of all panels of a scale, so that they share an axis
    return max(-reach, min([-reach / 2, *ends])), min(reach, max([reach / 2, *ends]))
