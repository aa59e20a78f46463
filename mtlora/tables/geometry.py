"""Reading of the summaries of T that runs save."""

import json
from math import dist, hypot, isfinite, nan
from pathlib import Path
from typing import Any

import pandas as pd

from mtlora.base.errors import UserError
from mtlora.base.files import read_text
from mtlora.plan.grid import Plan
from mtlora.records.record import GEOMETRY, RunRecord, detail
from mtlora.tables.aggregate import row_of
from mtlora.tables.evidence import Evidence


def read_geometry(plan: Plan, records: dict[str, RunRecord], evidence: Evidence) -> tuple[pd.DataFrame, list[str]]:
    """Return a row per run, module and epoch, and a line for each file that could not be read.

    Columns: `row` of the table, `method`, `epoch`, `last` (of the run), `module` (its number from the input on), `largest` and
    `smallest` singular value, `rotation` (mean absolute eigenvalue phase, radians), `distance` from the identity, and `change`,
    the Euclidean distance of the singular values from those at the start, relative to their norm. By Mirsky's inequality (1960)
    `change` is at most ||T - T_0|| / ||T_0|| in Frobenius norms.
    """
    rows: list[dict[str, Any]] = []
    problems = []
    for cell in plan.cells:
        record, path = records.get(cell.sha), detail(evidence.folders.get(cell.sha), GEOMETRY)
        if record is None or path is None:
            continue
        try:
            keys = {"row": row_of(plan, cell), "method": record.transform}
            rows += [keys | row for row in _rows(path)]
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, UserError) as error:
            problems.append(f"{path} is left out of the figure: {type(error).__name__}: {error}")
    return pd.DataFrame(rows), problems


def _rows(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in read_text(path).splitlines()]
    modules: dict[str, int] = {}
    starts: dict[str, list[float]] = {}
    rows = []
    for item in found:
        singular, phases = ([float(value) for value in item[name]] for name in ("singular_values", "eigenvalue_phases"))
        start = starts.setdefault(str(item["module"]), singular)
        row = {
            "epoch": int(item["epoch"]),
            "last": item["epoch"] == found[-1]["epoch"],
            "module": modules.setdefault(str(item["module"]), len(modules)),
            "largest": max(singular),
            "smallest": min(singular),
            "rotation": sum(phases) / len(phases),
            "distance": float(item["identity_distance"]),
        }
        if not all(isfinite(value) for value in row.values()):
            raise ValueError("a number is not finite")
        # relative to T = 0, where some runs start, there is no change: a gap in the curve
        row["change"] = dist(singular, start) / hypot(*start) if any(start) else nan
        rows.append(row)
    return rows
