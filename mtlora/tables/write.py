"""Writing of a plan's tables as Markdown, LaTeX, HTML and CSV.

The experiment and its overrides define the cells by `config_sha`; only their records enter the table, so short runs, other
profiles and old sweeps never mix in.
"""

from pathlib import Path

from mtlora.base.files import write_text
from mtlora.tables.comparison import comparison_frame
from mtlora.tables.convention import convention
from mtlora.tables.differences import differences, items, protocols, spread
from mtlora.tables.formats import html_page, latex, markdown
from mtlora.tables.layout import TextTable
from mtlora.tables.scores import cost, scores
from mtlora.tables.view import View


def all_tables(view: View) -> list[TextTable]:
    """Return a plan's tables that have data, the scores first."""
    compared = [
        protocols(view),
        convention(view),
        differences(view, contrasts=False),
        differences(view, contrasts=True),
        spread(view),
    ]
    return [table for table in (scores(view), *compared, items(view), cost(view)) if table is not None]


def write_tables(view: View, folder: Path) -> tuple[str, list[TextTable]]:
    """Write a plan's tables in every format, the long CSV, the comparisons and the cost; return the Markdown and the tables."""
    name = view.plan.name
    tables = all_tables(view)
    text = "\n".join(map(markdown, tables))
    write_text(folder / f"{name}.md", text)
    write_text(folder / f"{name}.tex", latex(tables))
    write_text(folder / f"{name}.html", html_page(view.plan.experiment.title, tables))
    write_text(folder / f"{name}.csv", view.summary.to_csv(index=False))
    write_text(folder / f"{name}_comparisons.csv", comparison_frame(view.plan, view.comparisons).to_csv(index=False))
    write_text(folder / f"{name}_cost.csv", view.cost.to_csv(index=False))
    return text, tables
