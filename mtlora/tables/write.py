"""Writing of a plan's tables as Markdown, LaTeX, HTML and CSV.

The experiment and its overrides define the cells by `config_sha`; only their records enter the table, so short runs, other
profiles and old sweeps never mix in.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mtlora.base.files import write_text
from mtlora.config.schema import RunConfig
from mtlora.plan.grid import Plan
from mtlora.tables.aggregate import Row, row_of
from mtlora.tables.comparison import comparison_frame
from mtlora.tables.differences import differences, items, protocols, spread
from mtlora.tables.formats import html_page, latex, markdown
from mtlora.tables.layout import TextTable
from mtlora.tables.scores import convention, cost, scores
from mtlora.tables.view import View

log = logging.getLogger(__name__)


def all_tables(view: View) -> list[TextTable]:
    """Return the scores, and a plan's other tables that have data."""
    compared = [
        protocols(view),
        convention(view),
        differences(view, contrasts=False),
        differences(view, contrasts=True),
        spread(view),
    ]
    others = (*compared, items(view), cost(view))
    return [scores(view), *(table for table in others if table is not None and has_data(table))]


def has_data(table: TextTable) -> bool:
    """Tell whether any cell has runs behind it; the table is one of dashes otherwise."""
    return any(cell.runs for row in table.rows for cell in row)


def write_tables(view: View, folder: Path) -> tuple[str, list[TextTable]]:
    """Write a plan's tables in every format, the long CSV, the comparisons and the cost; return the Markdown and the tables.

    A table that lacks runs of the one that it replaces is announced by one line.
    """
    name, plan = view.plan.name, view.plan
    tables = all_tables(view)
    frames = {"": view.summary, "_comparisons": comparison_frame(plan, view.comparisons), "_cost": view.cost}
    frames = {end: with_conditions(plan, frame) for end, frame in frames.items()}
    if (line := replaced(frames[""], folder / f"{name}.csv")) is not None:
        log.warning("%s", line)
    text = "\n".join(map(markdown, tables))
    write_text(folder / f"{name}.md", text)
    write_text(folder / f"{name}.tex", latex(tables))
    write_text(folder / f"{name}.html", html_page(plan.experiment.title, tables))
    for end, frame in frames.items():
        write_text(folder / f"{name}{end}.csv", frame.to_csv(index=False))
    return text, tables


def with_conditions(plan: Plan, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame, which has the columns `task` and those of `Row`, with the conditions of the runs behind each row added.

    So short runs, made-up data and official data cannot be mixed up. Values that differ between the runs of a row, as the epochs
    of an average over tasks may, are separated by spaces. `limit` holds the overrides that shorten a run, such as
    `train.limit_examples=64`; it is empty for whole runs.
    """
    found = []
    for cell in plan.cells:
        c = cell.config
        known = {"profile": c.profile, "data_source": c.data.source, "epochs": str(c.train.epochs), "limit": limits(c)}
        found += [row_of(plan, cell)._asdict() | {"task": task} | known for task in (c.task.name, "average")]
    keys = [*Row._fields, "task"]
    return frame.join(pd.DataFrame(found).groupby(keys, sort=False).agg(_distinct), on=keys)


def limits(config: RunConfig) -> str:
    """Return the overrides that shorten a run or permit partial training files, separated by spaces."""
    given = {
        "train.limit_examples": config.train.limit_examples,
        "train.limit_validation": config.train.limit_validation if config.task.kind == "generation" else None,
        "decode.limit_contexts": config.decode.limit_contexts if config.decodes else None,
        "data.subset": "true" if config.data.subset else None,
    }
    return " ".join(f"{key}={value}" for key, value in given.items() if value is not None)


def _distinct(values: Iterable[str]) -> str:
    return " ".join(sorted(set(values), key=lambda value: (len(value), value)))  # numbers by size


def replaced(frame: pd.DataFrame, path: Path) -> str | None:
    """Return a line about the table that a CSV file held, if the new one lacks some of its runs; else None.

    Args:
        frame: the new content, with its conditions.
        path: the CSV file, which may not exist.
    """
    try:
        old = pd.read_csv(path, dtype=str, keep_default_na=False)
        lost = _words(old, "run_ids") - _words(frame, "run_ids")
    except (OSError, ValueError, KeyError, AttributeError):  # no file, or none of ours
        return None
    if not lost:
        return None
    return (
        f"{path.with_suffix('')}.*: {_described(frame)} in place of {_described(old)}; "
        "to get the earlier tables again, repeat their command"
    )


def _words(frame: pd.DataFrame, column: str) -> set[str]:
    return {word for text in frame[column] for word in str(text).split(" ")} - {""}


def _described(frame: pd.DataFrame) -> str:
    count = len(_words(frame, "run_ids"))
    tasks = [task for task in dict.fromkeys(frame["task"]) if task != "average"]
    parts = [", ".join(tasks) if len(tasks) < 4 else f"{len(tasks)} tasks", ", ".join(dict.fromkeys(frame["method"]))]
    for name, label in (("data_source", "data"), ("epochs", "epochs"), ("limit", "")):
        if name in frame and (values := _distinct(_words(frame, name))):
            parts.append(f"{label} {values}".strip())
    return f"{count} run{'s' * (count != 1)} ({'; '.join(part for part in parts if part)})"
