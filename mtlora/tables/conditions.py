"""The conditions of the runs behind a row of a CSV file: short runs, made-up data and official data cannot be mixed up."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mtlora.config.schema import RunConfig
from mtlora.plan.grid import Plan
from mtlora.tables.aggregate import Row, row_of

CONDITIONS = ["profile", "data_source", "epochs", "limit"]


def with_conditions(plan: Plan, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with `CONDITIONS` added, for its columns `task` and those of `Row`.

    Values that differ between the runs of a row, as the epochs of an average over tasks may, are separated by spaces. `limit`
    holds the overrides that shorten a run, such as `train.limit_examples=64`; it is empty for whole runs.
    """
    configs: dict[tuple[Row, str], list[RunConfig]] = {}
    for cell in plan.cells:
        for task in (cell.config.task.name, "average"):
            configs.setdefault((row_of(plan, cell), task), []).append(cell.config)
    found = [_conditions(configs.get((Row.of(item), item["task"]), [])) for item in frame.to_dict("records")]
    added = pd.DataFrame(found, columns=CONDITIONS, index=frame.index)
    return pd.concat([frame, added], axis=1)


def _conditions(configs: Iterable[RunConfig]) -> dict[str, str]:
    rows = [(c.profile, c.data.source, str(c.train.epochs), limits(c)) for c in configs]
    columns = (sorted(set(values), key=lambda value: (len(value), value)) for values in zip(*rows, strict=True))
    return dict(zip(CONDITIONS, map(" ".join, columns), strict=False))


def limits(config: RunConfig) -> str:
    """Return the overrides that shorten a run or permit partial training files, separated by spaces."""
    given = {
        "train.limit_examples": config.train.limit_examples,
        "train.limit_validation": config.train.limit_validation if config.task.kind == "generation" else None,
        "decode.limit_contexts": config.decode.limit_contexts if config.decodes else None,
        "data.subset": "true" if config.data.subset else None,
    }
    return " ".join(f"{key}={value}" for key, value in given.items() if value is not None)


def replaced(frame: pd.DataFrame, path: Path) -> str | None:
    """Return a line about the table that a CSV file held, if the new one lacks some of its runs; else None.

    Args:
        frame: the new content, with `CONDITIONS`.
        path: the CSV file, which may not exist.
    """
    try:
        old = pd.read_csv(path, dtype=str, keep_default_na=False)
        lost = _runs(old) - _runs(frame)
    except (OSError, ValueError, KeyError, AttributeError):  # no file, or none of ours
        return None
    if not lost:
        return None
    return (
        f"{path.with_suffix('')}.*: {_described(frame)} in place of {_described(old)}; "
        "to get the earlier tables again, repeat their command"
    )


def _runs(frame: pd.DataFrame) -> set[str]:
    return {run for runs in frame["run_ids"] for run in runs.split(" ")} - {""}


def _described(frame: pd.DataFrame) -> str:
    count = len(_runs(frame))
    tasks = [task for task in dict.fromkeys(frame["task"]) if task != "average"]
    parts = [", ".join(tasks) if len(tasks) < 4 else f"{len(tasks)} tasks"]
    parts.append(", ".join(dict.fromkeys(frame["method"])))
    for name, label in (("data_source", "data"), ("epochs", "epochs"), ("limit", "")):
        values = {value for text in frame.get(name, ()) for value in str(text).split(" ")} - {""}
        if values:
            parts.append(f"{label} {' '.join(sorted(values, key=lambda value: (len(value), value)))}".strip())
    return f"{count} run{'s' * (count != 1)} ({'; '.join(part for part in parts if part)})"
