"""The table as the literature reports it, with published numbers beside ours; never mixed with the table of scores."""

from typing import Any

import pandas as pd

from mtlora.tables.aggregate import Row, entries_of, published_rows
from mtlora.tables.captions import method_label, row_labels, table_columns
from mtlora.tables.layout import MISSING, TableCell, TextTable, number, text_table
from mtlora.tables.scores import score_columns
from mtlora.tables.view import View


def convention(view: View) -> TextTable | None:
    """Return the table by the literature's rule; None if it would repeat the scores."""
    plan, rule = view.plan, view.plan.experiment.convention
    if rule is None:
        return None
    published = published_rows(plan, view.records)
    published = published[(published["selection"] == rule.selection) & (published["statistic"] == rule.statistic)]
    if published.empty and (rule.selection, rule.statistic) == (plan.experiment.selection, "mean"):
        return None
    body = {label: cells for (label, _), cells in score_columns(view, rule.selection, rule.statistic).items()}
    best, last = (_headline(view, s, rule.statistic) for s in (rule.selection, plan.experiment.selection))
    bases = [row._replace(method="lora") for row in view.rows]
    body["Δ to LoRA"] = [
        MISSING if row == base else _less(best.get(row), best.get(base))
        for row, base in zip(view.rows, bases, strict=True)
    ]
    if rule.selection != plan.experiment.selection:
        body["best − last"] = [_less(best.get(row), last.get(row)) for row in view.rows]
    text = (
        f"{rule.selection} epoch (by the first metric of each task), {rule.statistic} of seeds, as {rule.source}; Δ is the "
        "difference of these numbers, without an interval: the other tables say how sure a difference is."
    )
    labels = row_labels(view.rows)
    table = text_table(
        f"{plan.name}-convention", f"{plan.experiment.title} by the literature's rule", text, labels, body
    )
    for _, group in published.groupby(["model", "method", "rank", "targets"], sort=False):
        for line in _published_lines(view, group.fillna({"split": ""}), len(labels)):
            table.rows.append(line + [TableCell("")] * (len(table.header) - len(line)))
        first = group.iloc[0]
        table.notes.append(f"{published_name(first)}: {first['remark']}.")
    if published.empty:
        table.notes.append("No published number has the model, data and recipe of these runs.")
    return table


def _headline(view: View, selection: str, statistic: str) -> dict[Row, TableCell]:
    """Return the headline figure of each row, without a text."""
    h = view.plan.experiment.headline
    return {
        Row.of(item): TableCell("", float(item[statistic]), tuple(item["run_ids"].split(" ")))
        for item in view.summary.to_dict("records")
        if (item["selection"], item["task"], item["split"], item["metric"]) == (selection, h.task, h.split, h.metric)
    }


def _less(one: TableCell | None, other: TableCell | None) -> TableCell:
    if one is None or other is None or one.value is None or other.value is None:
        return MISSING
    value = one.value - other.value
    return TableCell(number(value, 2, True), value, tuple(dict.fromkeys((*one.runs, *other.runs))))


def published_name(row: "pd.Series[Any]") -> str:
    """Name a published row by its method and source."""
    return f"{method_label(row['method'])}, {row['source']}"


def _published_lines(view: View, group: pd.DataFrame, labels: int) -> list[list[TableCell]]:
    """Return the line of a published row, and below it our figures less the published ones, if we have any."""
    plan, first = view.plan, group.iloc[0]
    columns = table_columns(plan)
    keys = ["model", "method", "rank", "targets", "selection"]
    ours = view.summary.merge(pd.DataFrame([first[keys]]), on=keys)
    published = [TableCell(published_name(first))] + [TableCell("")] * (labels - 1)
    difference = [TableCell("ours − published")] + [TableCell("")] * (labels - 1)
    for column in columns:
        wanted = [(column.task, entry.split, entry.metric) for entry in entries_of(column)]
        for frame, key, line in ((group, "value", published), (ours, "difference", difference)):
            found = {(r["task"], r["split"], r["metric"]): r[key] for r in frame.to_dict("records")}
            values = [found[w] for w in wanted if w in found and pd.notna(found[w])]
            text = " / ".join(number(value, column.digits, signed=frame is ours) for value in values)
            line.append(TableCell(text) if values else MISSING)
    lines = [published, difference] if any(cell != MISSING for cell in difference[labels:]) else [published]
    return lines
