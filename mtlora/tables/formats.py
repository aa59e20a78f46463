"""The formats of a table: Markdown, LaTeX (booktabs) and HTML."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from tabulate import tabulate

from mtlora.tables.layout import TableCell, TextTable

TEMPLATES = Path(__file__).parent / "templates"


def markdown(table: TextTable) -> str:
    """Return the table as Markdown: caption, notes, grid."""
    texts = [[_marked(cell, _markdown_text, "**", "**") for cell in row] for row in table.rows]
    header = [_markdown_text(title) for title in table.header]
    sides = ["left" if i < table.labels else "right" for i in range(len(header))]
    grid = tabulate(texts, header, tablefmt="pipe", colalign=sides, disable_numparse=True)
    title = f"**{table.title}**, {table.caption}" if table.caption else f"**{table.title}**"
    return "\n\n".join([title, *table.notes, grid]) + "\n"


def _markdown_text(text: str) -> str:
    return text.replace("|", "\\|").replace("−", "-")  # software cannot parse numbers with a true minus sign


def _marked(cell: TableCell, escape: Callable[[str], str], before: str, after: str) -> str:
    """Mark a best cell: its estimate without the deviation, or a pair of scores as a whole."""
    mean, plus, rest = cell.text.partition(" ± ") if " / " not in cell.text else (cell.text, "", "")
    return f"{before}{escape(mean)}{after}{escape(plus + rest)}" if cell.bold else escape(cell.text)


LATEX = {special: "\\" + special for special in "&%$#_{}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "–": "--"}
LATEX |= {"−": "$-$", "±": r"$\pm$", "×": r"$\times$", "Δ": r"$\Delta$", "†": r"$\dagger$", "‡": r"$\ddagger$"}
LATEX |= {"<": "$<$", ">": "$>$", "≤": r"$\leq$", "≥": r"$\geq$", "|": "$|$"}
ESCAPES = str.maketrans(LATEX)

LINE = 100  # characters of \footnotesize that a line holds, about
BREAK = r"\\"

# A file that LaTeX compiles as it is, and that a paper can \input: inside a document only the tables count.
PREAMBLE = r"""\makeatletter
\ifx\@nodocument\relax
\let\mtloraend\relax
\else
\documentclass[a4paper]{article}
\usepackage[utf8]{inputenc}
\usepackage{booktabs,graphicx}
\usepackage[margin=2cm]{geometry}
\def\mtloraend{\end{document}}
\begin{document}
\fi
\makeatother
"""


def latex(tables: Sequence[TextTable]) -> str:
    """Return the tables as one LaTeX file; a paper that includes it loads booktabs and graphicx."""
    return PREAMBLE + "\n".join(map(_latex_table, tables)) + "\n\\mtloraend\n"


def _latex_table(table: TextTable) -> str:
    caption = _latex_text(f"{table.title}: {table.caption}" if table.caption else table.title)
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{4pt}",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{table.name}}}",
        "\n\\par\\medskip\n".join(_tabular(table, columns) for columns in _blocks(table)),
        *(rf"\par\smallskip\raggedright {_latex_text(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _headings(table: TextTable) -> list[list[str]]:
    """Break each heading into lines that are no wider than the column needs to be."""
    bodies = [max((len(row[i].text) for row in table.rows), default=1) for i in range(len(table.header))]
    return [
        textwrap.wrap(title, max(body, 8), break_long_words=False)
        for title, body in zip(table.header, bodies, strict=True)
    ]


def _blocks(table: TextTable) -> list[list[int]]:
    """Split the columns of a wide table into blocks below each other, as few and as even as can be, each with the row names."""
    texts = [[*lines, *(row[i].text for row in table.rows)] for i, lines in enumerate(_headings(table))]
    widths = [2 + max(map(len, own)) for own in texts]
    labels = list(range(table.labels))

    def split(limit: int) -> list[list[int]]:
        blocks = [[*labels]]
        for i in range(table.labels, len(widths)):
            if len(blocks[-1]) > len(labels) and sum(widths[j] for j in [*blocks[-1], i]) > limit:
                blocks.append([*labels])
            blocks[-1].append(i)
        return blocks

    fewest = len(split(LINE))
    return next(blocks for limit in range(LINE + 1) if len(blocks := split(limit)) == fewest)


def _tabular(table: TextTable, columns: Sequence[int]) -> str:
    """Return some columns as a tabular, scaled down only if even so it is wider than the line."""
    sides = ["l" if i < table.labels else "r" for i in columns]
    lines = [[_latex_text(line) for line in _headings(table)[i]] for i in columns]
    titles = [rf"\shortstack[{side}]{{{BREAK.join(own)}}}" for side, own in zip(sides, lines, strict=True)]
    rows = [[_marked(row[i], _latex_text, r"\textbf{", "}") for i in columns] for row in table.rows]
    grid = [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join(sides)}}}",
        r"\toprule",
        " & ".join(titles) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    return "\n".join(grid)


def _latex_text(text: str) -> str:
    return text.translate(ESCAPES)


def html_page(title: str, tables: Sequence[TextTable]) -> str:
    """Return a self-contained page with the tables; a click sorts a column or shows the runs of a cell."""
    return render(TEMPLATES / "page.html", title=title, tables=tables)


def render(template: Path, **values: Any) -> str:
    """Fill in a template, which may include files of its own folder and of `mtlora/tables/templates/`; texts are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template.name).render(**values)
