"""Reading of the summaries of T that runs save."""

import json
from math import isfinite, nan
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
    `smallest` singular value, `condition` number, `rotation` (mean absolute eigenvalue phase, radians) and
    `distance` from the identity.
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
    rows = []
    for item in found:
        singular, phases = ([float(value) for value in item[name]] for name in ("singular_values", "eigenvalue_phases"))
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
        # T = 0, where some runs start, has no condition number: a gap in the curve
        row["condition"] = row["largest"] / max(row["smallest"], 1e-12) if row["largest"] else nan
        rows.append(row)
    return rows
