"""The geometry of T, from the summaries that runs save."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlora.report.plots.style import grid, legend, settings_of, style
from mtlora.tables.captions import method_label
from mtlora.tables.view import View

QUANTITIES = (
    ("largest", "largest singular value"),
    ("rotation", "mean |eigenvalue phase|, rad"),
    ("distance", "‖T − I‖ / √r"),
    ("change", "change of singular values"),
)


def geometry(view: View) -> tuple[Figure, str] | None:
    """Draw T's singular values and their change, its rotation and its distance from the identity, by layer and over training."""
    frame = view.geometry[0]
    if frame.empty:
        return None
    first = frame["row"].iloc[0]
    frame = frame[frame["row"].map(lambda row: row.setting == first.setting)]  # further settings would hide each other
    setting = next(name for name, rows in settings_of(view).items() if first in rows)
    trained = frame[frame["last"]]
    figure, axes = grid(2 * len(QUANTITIES))
    for above, below, (key, label) in zip(axes, axes[len(QUANTITIES) :], QUANTITIES, strict=False):
        _draw(above, trained, "module", key)
        _draw(below, frame, "epoch", key)
        for axis in (above, below):
            axis.set_ylabel(label, fontsize=8)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        above.set_xlabel("module, input to output")
        below.set_xlabel("epoch (0: start)")
    for method, part in trained.groupby("method", sort=False):
        lows = part.groupby("module")["smallest"].median()
        axes[0].plot(lows.index, lows, **style(str(method)) | {"markersize": 0, "linewidth": 0.8})
    axes[0].set_ylabel("largest and smallest singular value", fontsize=8)
    legend(figure, axes)
    return figure, (
        "By module: after training; by epoch: during training. Lines are medians over tasks, seeds and (by epoch) modules; bands "
        "cover the middle half. T = I would have singular values 1, phases 0 and distance 0; in LoRA T is always I. Change: the "
        "distance of the singular values from those at the start, relative to their norm; ‖T − T₀‖ / ‖T₀‖ is at least as large."
        + (f" Setting: {setting}." if setting else "")
    )


def _draw(axis: Axes, frame: pd.DataFrame, x: str, key: str) -> None:
    """Draw the median of a quantity by method, and a band over its middle half."""
    for method, part in frame.groupby("method", sort=False):
        values = part.groupby(x)[key]
        low, middle, high = (values.quantile(share) for share in (0.25, 0.5, 0.75))
        look = style(str(method))
        axis.plot(middle.index, middle, label=method_label(str(method)), **look | {"markersize": 2.5})
        axis.fill_between(middle.index, low, high, color=look["color"], alpha=0.12, linewidth=0)
