"""The geometry of T, from the summaries that runs keep."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlora.report.plots.style import grid, legend, settings_of, style
from mtlora.tables.captions import method_label
from mtlora.tables.comparison import setting_of
from mtlora.tables.view import View


def geometry(view: View) -> tuple[Figure, str] | None:
    """Draw T's singular values, rotation, condition number and distance from the identity, by layer and over training."""
    frame = view.geometry[0]
    if frame.empty:
        return None
    drawn = frame["row"].map(setting_of)
    frame = frame[drawn == drawn.iloc[0]]  # further settings would hide each other
    settings = [name for name, rows in settings_of(view).items() if frame["row"].iloc[0] in rows]
    figures = (
        ("largest", "largest singular value", False),
        ("rotation", "mean |eigenvalue phase|, rad", False),
        ("condition", "condition number", True),
        ("distance", "‖T − I‖ / √r", False),
    )
    figure, axes = grid(8)
    for i, (key, label, log) in enumerate(figures):
        for axis, x in ((axes[i], "module"), (axes[i + 4], "epoch")):
            for method, part in frame.groupby("method", sort=False):
                part = part[part["last"]] if x == "module" else part
                middle = part.groupby(x)[key].quantile([0.25, 0.5, 0.75]).unstack()
                axis.plot(
                    middle.index,
                    middle[0.5],
                    label=method_label(str(method)),
                    **style(str(method)) | {"markersize": 2.5},
                )
                axis.fill_between(
                    middle.index,
                    middle[0.25],
                    middle[0.75],
                    color=style(str(method))["color"],
                    alpha=0.12,
                    linewidth=0,
                )
            if x == "module" and key == "largest":
                for method, part in frame[frame["last"]].groupby("method", sort=False):
                    lows = part.groupby("module")["smallest"].median()
                    axis.plot(lows.index, lows, **style(str(method)) | {"markersize": 0, "linewidth": 0.8})
            axis.set_yscale("log" if log else "linear")
            axis.set_xlabel("module, input to output" if x == "module" else "epoch (0: start)")
            axis.set_ylabel(
                "largest and smallest singular value" if x == "module" and key == "largest" else label, fontsize=8
            )
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, axes)
    return figure, (
        "Above: by module after training; below: over training. Lines are medians over tasks, seeds and (below) modules, bands "
        "the middle half. T = I would have singular values 1, phases 0, condition number 1, distance 0; LoRA has no other T."
        + (f" Setting: {settings[0]}." if settings[0] else "")
    )
