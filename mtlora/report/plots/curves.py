"""Learning curves."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlora.config.metrics import METRICS
from mtlora.plan.cell import Cell
from mtlora.plan.experiment import Column
from mtlora.records.record import RunRecord
from mtlora.report.plots.style import grid, legend, settings_of, style
from mtlora.tables.aggregate import Row, row_of
from mtlora.tables.captions import method_label
from mtlora.tables.view import View

Runs = list[list[float]]  # for each run, its score (generation: loss) by epoch


def curves(view: View) -> tuple[Figure, str] | None:
    """Draw the validation score, or loss, by epoch: the mean over seeds, and a band from the lowest to the highest seed."""
    series: dict[tuple[str, Row], Runs] = {}
    axis_labels: dict[str, str] = {}
    columns = {column.task: column for column in reversed(view.plan.columns)}
    for cell in view.plan.cells:
        record, column = view.records.get(cell.sha), columns.get(cell.config.task.name)
        if record is None or column is None:
            continue
        title, axis_label, values = _curve(cell, record, column)
        if len(values) > 1 and np.isfinite(values).all():  # a single epoch is no curve
            axis_labels[title] = axis_label
            series.setdefault((title, row_of(view.plan, cell)), []).append(values)
    settings = settings_of(view)
    panels = [
        (s, title) for s in settings for title in axis_labels if any((title, row) in series for row in settings[s])
    ]
    if not panels:
        return None
    figure, axes = grid(len(panels))
    for axis, (setting, title) in zip(axes, panels, strict=True):
        for row in settings[setting]:
            _draw(axis, row.method, series.get((title, row), []))
        axis.set_title(", ".join(part for part in (title, setting) if part), fontsize=9)
        axis.set_xlabel("epoch")
        axis.set_ylabel(axis_labels[title], fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, axes)
    return figure, "Each line is the mean over seeds; its band reaches from the lowest to the highest seed."


def _curve(cell: Cell, record: RunRecord, column: Column) -> tuple[str, str, list[float]]:
    """Return a panel's title, the name of its vertical axis, and the run's score or loss by epoch; empty if an epoch lacks it."""
    split, metric, title = column.split, column.metric, column.label
    axis_label, factor = f"{metric}, {split.replace('_', ' ')}", METRICS[metric].scale
    if cell.config.task.kind == "generation":  # decoded and scored at the end only
        split, metric, title = "validation", "loss", record.task
        axis_label, factor = "validation loss, nats per token", 1.0
    try:
        return title, axis_label, [factor * float(epoch["metrics"][split][metric]) for epoch in record.epochs]
    except (KeyError, TypeError, ValueError):
        return title, axis_label, []


def _draw(axis: Axes, method: str, runs: Runs) -> None:
    length = min(map(len, runs), default=0)
    if length:
        lines = np.array([run[:length] for run in runs])
        x = np.arange(1, length + 1)
        axis.plot(x, lines.mean(0), label=method_label(method), **style(method))
        axis.fill_between(x, lines.min(0), lines.max(0), color=style(method)["color"], alpha=0.12, linewidth=0)
