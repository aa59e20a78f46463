"""Learning curves."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlora.config.metrics import METRICS
from mtlora.report.plots.style import grid, legend, settings_of, style
from mtlora.tables.aggregate import row_keys, shown_columns
from mtlora.tables.captions import method_label
from mtlora.tables.comparison import Row
from mtlora.tables.view import View


def curves(view: View) -> tuple[Figure, str] | None:
    """Draw the validation figure by epoch, mean over seeds with a band from the lowest to the highest seed."""
    series: dict[tuple[str, Row], list[list[float]]] = {}
    names: dict[str, str] = {}
    columns = {column.task: column for column in reversed(shown_columns(view.plan))}
    for cell in view.plan.cells:
        record = view.records.get(cell.sha)
        if record is None or cell.config.task.name not in columns:
            continue
        column = columns[cell.config.task.name]
        split, metric = (
            (column.split, column.metric) if cell.config.task.kind != "generation" else ("validation", "loss")
        )
        try:
            values = [float(epoch["metrics"][split][metric]) for epoch in record.epochs]
        except (KeyError, TypeError, ValueError):
            continue
        if values and np.isfinite(values).all():
            label = column.label if metric != "loss" else record.task
            names[label] = (
                "validation loss, nats per token" if metric == "loss" else f"{metric}, {split.replace('_', ' ')}"
            )
            percent = 100.0 if metric in METRICS and METRICS[metric].percent else 1.0
            series.setdefault((label, tuple(row_keys(view.plan, cell).values())), []).append(
                [percent * v for v in values]
            )
    settings = settings_of(view)
    panels = [(s, label) for s in settings for label in names if any((label, row) in series for row in settings[s])]
    if not panels:
        return None
    figure, axes = grid(len(panels))
    for axis, (setting, label) in zip(axes, panels, strict=True):
        for row in settings[setting]:
            runs = series.get((label, row), [])
            length = min(map(len, runs), default=0)
            if not length:
                continue
            lines = np.array([run[:length] for run in runs])
            x = np.arange(1, length + 1)
            axis.plot(x, lines.mean(0), label=method_label(row[1]), **style(row[1]))
            axis.fill_between(x, lines.min(0), lines.max(0), color=style(row[1])["color"], alpha=0.12, linewidth=0)
        axis.set_title(", ".join(part for part in (label, setting) if part), fontsize=9)
        axis.set_xlabel("epoch")
        axis.set_ylabel(names[label], fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, axes)
    return figure, "Each line is the mean over seeds, its band reaches from the lowest to the highest seed."
