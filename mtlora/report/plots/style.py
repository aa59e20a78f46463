"""The look of all figures: colour-blind safe (Okabe and Ito 2008); in grey, markers and mostly lines distinguish the methods.

Red-blind and green-blind readers can tell the colours of the further methods apart, too (Machado et al. 2009).
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtlora.tables.aggregate import Row
from mtlora.tables.captions import row_labels
from mtlora.tables.view import View

# method -> colour, line style, marker
STYLES = {
    "lora": ("#000000", "-", "o"),
    "shim": ("#0072B2", "--", "s"),
    "icfm": ("#E69F00", "-.", "^"),
    "ctcm": ("#009E73", ":", "D"),
    "dtsm": ("#D55E00", (0, (5, 1, 1, 1, 1, 1)), "v"),
    "lora_scaled": ("#6E6E6E", (0, (8, 2)), "o"),
    "rslora": ("#2020F0", (0, (8, 2, 2, 2)), "<"),
    "lora_plus": ("#00007A", (0, (1, 2)), ">"),
    "dora": ("#CC79A7", (0, (6, 2)), "P"),
    "pissa": ("#56B4E9", (0, (4, 1, 1, 1)), "p"),
    "vera": ("#7A1040", (0, (2, 1)), "*"),
    "miss": ("#6BBF59", (0, (10, 3, 2, 3)), "h"),
    "shim_fast_t": ("#B8860B", (0, (5, 1)), "X"),
    "full": ("#4A2A10", (0, (3, 1, 1, 1)), "d"),
}
OTHER = ("#A0A0A0", "-", "8")  # never x, which marks a run that diverged
FROZEN = "_frozen"  # the end of a control's name: its structure, with T frozen
SETTINGS: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "svg.hashsalt": "mtlora",  # the same records give the same file
    "svg.fonttype": "path",
    "legend.frameon": False,
}


def grid(panels: int, size: tuple[float, float] | None = None) -> tuple[Figure, list[Axes]]:
    """Return a figure with this number of panels, at most four in a row, of a size in inches (a single one is larger)."""
    width, height = size or ((4.2, 2.8) if panels == 1 else (3.2, 2.5))
    columns = min(panels, 4)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]
    return figure, axes


def style(method: str) -> dict[str, Any]:
    """Return the colour, line and marker of a method; a frozen structure has its colour, short dashes and a hollow marker."""
    colour, line, marker = STYLES.get(method.removesuffix(FROZEN), OTHER)
    look = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4, "linewidth": 1.4}
    return look | {"linestyle": (0, (2, 2)), "markerfacecolor": "white"} if method.endswith(FROZEN) else look


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Put one legend of all panels below them."""
    found = labelled(axes)
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=min(5, max(1, len(found))))


def labelled(axes: Sequence[Axes]) -> dict[str, Artist]:
    """Return the entries of a legend of all panels."""
    return {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}


def settings_of(view: View) -> dict[str, list[Row]]:
    """Return the rows by setting (everything but the method), under its label; a plain table has one, without a label."""
    settings: dict[str, list[Row]] = {}
    labels = row_labels(view.rows)
    for i, row in enumerate(view.rows):
        label = ", ".join(f"{title} {values[i]}" for title, values in labels.items() if title != "Method")
        settings.setdefault(label, []).append(row)
    return settings
