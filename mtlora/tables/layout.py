"""Tables as plain data, before any format: the text of each cell, and the runs behind it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TableCell:
    """One cell: its text, the number it sorts by, the runs behind it, and whether it is the best of its column."""

    text: str
    value: float | None = None
    runs: tuple[str, ...] = ()
    bold: bool = False


@dataclass
class TextTable:
    """A table for readers. The first `labels` columns are texts, the others numbers."""

    name: str  # of the anchor in the report, and of a LaTeX label
    title: str
    caption: str
    header: list[str]
    rows: list[list[TableCell]]
    labels: int = 1
    notes: list[str] = field(default_factory=list)


MISSING = TableCell("–")


def number(value: float, digits: int, signed: bool = False) -> str:
    """Write a number with a true minus sign, which a rounded 0 does not get."""
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def percent(level: float) -> str:
    """Return a confidence level in percent, with four digits at most: 95%, 98.75%."""
    return f"{100 * level:.4g}%"


def estimate(mean: float, interval: tuple[float, float] | None, digits: int = 2, without: str = "") -> str:
    """Write a signed estimate with its interval, or with `without` if there is none."""
    text = number(mean, digits, signed=True)
    return text + (f" [{number(interval[0], digits)}, {number(interval[1], digits)}]" if interval else without)


def text_table(
    name: str, title: str, caption: str, labels: dict[str, list[str]], body: dict[str, list[TableCell]]
) -> TextTable:
    """Make a table from its columns: texts that name the rows, then cells."""
    columns = [[TableCell(text) for text in column] for column in labels.values()] + list(body.values())
    rows = [list(row) for row in zip(*columns, strict=True)]
    return TextTable(name, title, caption, [*labels, *body], rows, len(labels))
