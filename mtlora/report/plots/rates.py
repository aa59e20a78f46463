"""Plots of tuning: the score by learning rate, and the best score by the number of rates tried."""

import textwrap
from collections.abc import Collection
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlora.report.plots.style import grid, legend, style
from mtlora.tables.captions import method_label
from mtlora.tables.tuning import TaskGroup, expected_best, task_groups
from mtlora.tables.view import View

MARK = "#555555"  # the colour of entries of the legend that hold for all methods
RING: dict[str, Any] = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": "none"}
ARROW: dict[str, Any] = {"marker": "v", "markersize": 5, "linestyle": "none", "clip_on": False}
CROSS: dict[str, Any] = {"marker": "x", "markersize": 6, "markeredgewidth": 1.4, "linestyle": "none"}
FAR = 5  # a mean this many times further below the best than the lower quartile is not drawn to scale


def score_by_rate(view: View) -> tuple[Figure, str] | None:
    """Draw the score against the factor of the learning rate: for each group of tasks their mean, and each task by itself."""
    groups = task_groups(view.tuning) if view.tuning else []
    if not groups:
        return None
    panels: list[tuple[TaskGroup, str | None]] = []
    for group in groups:
        panels += [(group, None), *((group, task) for task in group.tasks if len(group.tasks) > 1)]
    figure, axes = grid(len(panels))
    for axis, (group, task) in zip(axes, panels, strict=True):
        _draw(axis, group, task, _score_name(view))
    axes[0].plot([], [], color=MARK, label="chosen", **RING)
    diverged = any(group.trials["diverged"].any() for group in groups)
    if diverged:
        axes[0].plot([], [], color=MARK, label="diverged", **CROSS)
    legend(figure, axes)
    caption = (
        "Each line is the mean over seeds, each faint point a seed, and a ring the factor that was chosen for a method"
    )
    caption += "." if len(panels) == len(groups) else ", by its mean over the tasks."
    if any(not line.get_clip_on() for axis in axes for line in axis.get_lines()):
        caption += " An arrow marks a mean far below the panel."
    if diverged:
        finite = all(np.isfinite(group.trials["score"]).all() for group in groups)
        place = (
            "the score of the majority answer, which it gets (or the lower edge, if higher)"
            if finite
            else "the lower edge: it has no finite loss"
        )
        caption += f" A cross is a trial that diverged, at {place}."
    return figure, caption


def _score_name(view: View) -> str:
    """Return a short name of the score of trials."""
    generation = view.plan.cells[0].config.task.kind == "generation"
    return "minus validation loss, nats" if generation else "held-out score"


def _draw(axis: Axes, group: TaskGroup, task: str | None, score: str) -> None:
    """Draw the scores of a task, or (None) their mean over the group's tasks."""
    mean_of_several = task is None and len(group.tasks) > 1
    name = f"mean over {', '.join(group.tasks)}" if mean_of_several else task or group.tasks[0]
    axis.set_title(textwrap.fill(f"{group.setting}: {name}" if group.setting else name, 44), fontsize=9)
    axis.set_ylabel(f"mean {score}" if mean_of_several else score, fontsize=8)
    scores = {method: (group.by_factor(method, task), group.by_seed(method, task)) for method in group.choices}
    dead = []
    for method, (means, seeds) in scores.items():
        look, chosen = style(method), group.choices[method].multiplier
        axis.plot(means.index, means.where(np.isfinite(means)), label=method_label(method), **look | {"markersize": 3})
        alive = seeds[~seeds["diverged"]]
        axis.plot(alive["multiplier"], alive["score"], **look | {"linestyle": "none", "markersize": 3, "alpha": 0.35})
        if isfinite(mean := means.get(chosen, np.nan)):
            axis.plot(chosen, mean, color=look["color"], **RING)
        if seeds["diverged"].any():
            dead.append((look["color"], seeds[seeds["diverged"]]))
    if limits := _limits(scores.values()):
        axis.set_ylim(limits)
    low = axis.get_ylim()[0]
    for i, (method, (means, _)) in enumerate(scores.items()):
        for factor in means.index[means.between(-np.inf, low, inclusive="neither")]:
            axis.plot(factor * _beside(i, len(scores)), low, color=style(method)["color"], **ARROW)
    for i, (color, runs) in enumerate(dead):
        heights = [max(score, low) for score in runs["score"]]
        axis.plot(runs["multiplier"] * _beside(i, len(dead)), heights, color=color, zorder=4, **CROSS)
    ticks = _ticks({factor for means, _ in scores.values() for factor in means.index})
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{factor:g}" for factor in ticks])
    axis.minorticks_off()
    axis.set_xlabel("factor of the recipe's learning rate", fontsize=8)


def _limits(scores: Collection[tuple["pd.Series[float]", pd.DataFrame]]) -> tuple[float, float] | None:
    """Return the limits of a panel with a mean so low that it would flatten the others; None without such a mean.

    Args:
        scores: for each method `TaskGroup.by_factor` and `TaskGroup.by_seed`.
    """
    means = pd.concat([own for own, _ in scores])
    means = means[np.isfinite(means)]
    fence = means.max() - FAR * (means.max() - means.quantile(0.25))
    kept = pd.concat(
        [seeds["score"][(seeds["multiplier"].map(own) >= fence) & ~seeds["diverged"]] for own, seeds in scores]
    )
    room = 0.15 * (kept.max() - kept.min())
    if not (means.min() < fence and room > 0):
        return None
    return kept.min() - room, kept.max() + room


def _beside(i: int, n: int) -> float:
    """Return a factor that moves the i-th of n marks sideways, so that none hides another at the same height."""
    return float(2 ** (min(0.12, 0.6 / n) * (i - (n - 1) / 2)))


def _ticks(factors: set[float]) -> list[float]:
    """Return the powers of 2 among the factors, or all factors if there are hardly any."""
    powers = [factor for factor in sorted(factors) if float(np.log2(factor)).is_integer()]
    return powers if len(powers) > 1 else sorted(factors)


def best_by_number(view: View) -> tuple[Figure, str] | None:
    """Draw the best mean score that is expected after k factors, a panel for each group of tasks."""
    groups = task_groups(view.tuning) if view.tuning else []
    curves = [best_curves(group) for group in groups]
    if max((len(best) for found in curves for best in found.values()), default=0) < 2:
        return None
    figure, axes = grid(len(groups))
    for axis, group, found in zip(axes, groups, curves, strict=True):
        for method, best in found.items():
            values = [value if isfinite(value) else np.nan for value in best]
            axis.plot(range(1, len(best) + 1), values, label=method_label(method), **style(method))
        several = ", ".join(group.tasks) if len(groups) > 1 else ""
        axis.set_title(textwrap.fill(": ".join(filter(None, (group.setting, several))), 44), fontsize=9)
        axis.set_xlabel("number of factors k")
        axis.set_ylabel(f"mean {_score_name(view)}" if len(groups) == 1 else "mean score", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, axes)
    caption = (
        "Each factor of the learning rate has a mean score over tasks and seeds. A line is the expected best score of k factors "
        "of a method, drawn without replacement (Tang et al. 2020, arXiv 2004.13705). But the factors are a grid, refined around "
        "the best, not random draws, and the choice was made by the same scores."
    )
    if any(not isfinite(value) for found in curves for best in found.values() for value in best):
        caption += " Some trials diverged: a line starts at the first k at which a finite loss is sure."
    return figure, caption


def best_curves(group: TaskGroup) -> dict[str, list[float]]:
    """Return by method the expected best mean score after 1, 2, ... factors."""
    return {method: expected_best(list(group.by_factor(method))) for method in group.choices}
