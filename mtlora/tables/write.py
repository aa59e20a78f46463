"""Writing of a plan's tables as Markdown, LaTeX, HTML and CSV.

The experiment and its overrides define the cells by `config_sha`; only their records enter the table, so short runs, other
profiles and old sweeps never mix in.
"""

import logging
from pathlib import Path

import pandas as pd

from mtlora.base.files import write_text
from mtlora.plan.grid import Plan
from mtlora.tables.comparison import comparison_frame
from mtlora.tables.conditions import replaced, with_conditions
from mtlora.tables.convention import convention
from mtlora.tables.differences import differences, items, protocols, spread
from mtlora.tables.formats import html_page, latex, markdown
from mtlora.tables.layout import TextTable
from mtlora.tables.scores import cost, scores
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
    frame = with_conditions(plan, view.summary)
    if (line := replaced(frame, folder / f"{name}.csv")) is not None:
        log.warning("%s", line)
    text = "\n".join(map(markdown, tables))
    write_text(folder / f"{name}.md", text)
    write_text(folder / f"{name}.tex", latex(tables))
    write_text(folder / f"{name}.html", html_page(view.plan.experiment.title, tables))
    write_text(folder / f"{name}.csv", frame.to_csv(index=False))
    write_text(folder / f"{name}_comparisons.csv", _csv(plan, comparison_frame(plan, view.comparisons)))
    write_text(folder / f"{name}_cost.csv", _csv(plan, view.cost))
    return text, tables


def _csv(plan: Plan, frame: pd.DataFrame) -> str:
    return with_conditions(plan, frame).to_csv(index=False)
