"""The geometry of T, from the summaries that runs keep."""

import json

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtlora.analysis.aggregate import row_keys
from mtlora.analysis.captions import method_label
from mtlora.analysis.plots.style import grid, legend, style
from mtlora.analysis.view import View
from mtlora.record import GEOMETRY


def read_geometry(view: View) -> pd.DataFrame:
    """Return the summaries of T of a plan's runs: method, epoch, depth (0 to 1 through the modules) and four figures."""
    rows = []
    for cell in view.plan.cells:
        record, folder = view.records.get(cell.sha), view.evidence.folders.get(cell.sha)
        if record is None or folder is None or not (folder / GEOMETRY).exists():
            continue
        try:
            found = [json.loads(line) for line in (folder / GEOMETRY).read_text(encoding="utf-8").splitlines()]
            modules = {name: i for i, name in enumerate(dict.fromkeys(item["module"] for item in found))}
            rows += [
                {
                    "setting": tuple(v for i, v in enumerate(row_keys(view.plan, cell).values()) if i != 1),
                    "method": record.transform,
                    "epoch": item["epoch"],
                    "last": item["epoch"] == found[-1]["epoch"],
                    "module": modules[item["module"]],
                    "largest": max(item["singular_values"]),
                    "smallest": min(item["singular_values"]),
                    "condition": max(item["singular_values"]) / max(min(item["singular_values"]), 1e-12),
                    "rotation": float(np.mean(item["eigenvalue_phases"])),
                    "distance": item["identity_distance"],
                }
                for item in found
            ]
        except (ValueError, KeyError, TypeError) as error:
            view.evidence.problems.append(f"{folder / GEOMETRY} is not readable ({error}): left out of the figure")
    return pd.DataFrame(rows)


def geometry(view: View) -> tuple[Figure, str] | None:
    """Draw T's singular values, rotation, condition number and distance from the identity, by layer and over training."""
    frame = read_geometry(view)
    if frame.empty:
        return None
    frame = frame[frame["setting"] == frame["setting"].iloc[0]]  # further settings would hide each other
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
    legend(figure, axes[0])
    return figure, (
        "Above: by module after training; below: over training. Lines are medians over tasks, seeds and (below) modules, bands "
        "the middle half. T = I would have singular values 1, phases 0, condition number 1, distance 0; LoRA has no other T."
    )
