"""The comparisons between the rows of a table, in families: the level of an interval accounts for the size of its family."""

from collections.abc import Iterator
from typing import NamedTuple

from mtlora.plan.cell import Cell, override_key
from mtlora.plan.grid import Plan, is_excluded
from mtlora.tables.aggregate import Row, row_of

CONTROL = "control"  # the contrast of a method with its control


class Rival(NamedTuple):
    """A row and the row that it is compared with."""

    row: Row
    base: Row
    contrast: str


def families(plan: Plan) -> Iterator[tuple[list[Rival], int]]:
    """Yield the families: the comparisons of one question, and their number, which the level of their intervals accounts for.

    The number includes all methods that the experiment declares for a setting: leaving some out on the command line must
    not make the others significant.
    """
    found: dict[tuple[str, Row], list[Rival]] = {}
    for rival in (*_rivals_of_lora(plan), *_rivals_of_controls(plan), *_rivals_along_contrasts(plan)):
        found.setdefault((rival.contrast, rival.row.setting), []).append(rival)
    cells = {row_of(plan, cell): cell for cell in plan.cells}
    for (contrast, _), rivals in found.items():
        methods = _declared_methods(plan, cells[rivals[0].row]) | {rival.row.method for rival in rivals}
        pairs = sum(m in methods and c in methods for m, controls in plan.experiment.controls.items() for c in controls)
        sizes = {"": len(methods - {"lora"}), CONTROL: pairs}
        yield rivals, sizes.get(contrast, len(methods))


def _rivals_of_lora(plan: Plan) -> Iterator[Rival]:
    rows = dict.fromkeys(row_of(plan, cell) for cell in plan.cells)
    bases = {row.setting: row for row in rows if row.method == "lora"}
    for row in rows:
        if row.method != "lora" and row.setting in bases:
            yield Rival(row, bases[row.setting], "")


def _rivals_of_controls(plan: Plan) -> Iterator[Rival]:
    rows = dict.fromkeys(row_of(plan, cell) for cell in plan.cells)
    for row in rows:
        for control in plan.experiment.controls.get(row.method, []):
            if (base := row._replace(method=control)) in rows:
                yield Rival(row, base, CONTROL)


def _rivals_along_contrasts(plan: Plan) -> Iterator[Rival]:
    """Yield each row with the row that differs from it in the contrast's key only, which has its first value there."""
    for key in plan.experiment.contrasts:
        by_value: dict[str, dict[tuple[str, ...], Row]] = {}
        for cell in plan.cells:
            others = tuple(o for o in cell.overrides if override_key(o) not in (key, "seed", "task"))
            value = next((o.partition("=")[2] for o in cell.overrides if override_key(o) == key), "")
            by_value.setdefault(value, {})[others] = row_of(plan, cell)
        first, *values = plan.axes.get(key, [""])
        bases = by_value.get(first, {})
        for value in values:
            for others, row in by_value.get(value, {}).items():
                if bases.get(others, row) != row:
                    yield Rival(row, bases[others], key)


def _declared_methods(plan: Plan, cell: Cell) -> set[str]:
    """Return all methods that the experiment has at a cell's other values, whatever the command line leaves out."""
    product = {override_key(override): override.partition("=")[2] for override in cell.overrides}
    methods = {str(method) for method in plan.experiment.axes_of(plan.profile).get("transform", [])}
    return {m for m in methods if not is_excluded(product | {"transform": m}, plan.experiment)}
