"""The table as the literature reports it, with published numbers beside ours; never mixed with the table of scores."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mtlora.tables.aggregate import entries_of, published_rows
from mtlora.tables.captions import row_labels, table_columns
from mtlora.tables.comparison import Pair, by_seed
from mtlora.tables.layout import MISSING, TableCell, TextTable, estimate, number, text_table
from mtlora.tables.scores import score_columns
from mtlora.tables.statistics import ALPHA, median_interval, paired_difference
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
    beside = {c.row: c.convention for c in view.comparisons if c.margin is not None and not c.contrast}
    body["Δ to LoRA"] = [_difference_cell(beside.get(row, ()), rule.statistic) for row in view.rows]
    interval = "order-statistic interval" if rule.statistic == "median" else "t interval"
    text = (
        f"{rule.selection} epoch, {rule.statistic} of seeds, as {rule.source}; Δ: {rule.statistic} of the differences by seed, "
        f"with its {interval} and the coverage of this interval."
    )
    labels = row_labels(view.rows)
    table = text_table(
        f"{plan.name}-convention", f"{plan.experiment.title} by the literature's rule", text, labels, body
    )
    for _, group in published.groupby(["model", "method", "rank", "targets"], sort=False):
        table.rows += _published_lines(view, group.fillna({"split": ""}), len(labels))
    if published.empty:
        table.notes.append("No published number has the model, data and recipe of these runs.")
    return table


def _difference_cell(pairs: Sequence[Pair], statistic: str) -> TableCell:
    if not pairs:
        return MISSING
    values = np.array(by_seed(pairs))
    runs = tuple(dict.fromkeys(run for pair in pairs for run in pair.runs))
    centre = float(np.median(values) if statistic == "median" else values.mean())
    if len(values) < 2:
        return TableCell(f"{number(centre, 2, True)} (1 seed)", centre, runs)
    low, high, coverage = median_interval(values)
    if statistic == "mean" and (interval := paired_difference([values]).interval()):
        low, high, coverage = *interval, 1 - ALPHA
    return TableCell(f"{estimate(centre, (low, high))} {coverage:.1%}", centre, runs)


def _published_lines(view: View, group: pd.DataFrame, labels: int) -> list[list[TableCell]]:
    """Return the line of a published row, and below it our figures less the published ones, if we have any."""
    plan, first = view.plan, group.iloc[0]
    columns = table_columns(plan)
    keys = ["model", "method", "rank", "targets", "selection"]
    ours = view.summary.merge(pd.DataFrame([first[keys]]), on=keys)
    name = "LoRA" if first["method"] == "lora" else str(first["method"])
    published = [TableCell(f"{name}, {first['source']}")] + [TableCell("")] * (labels - 1)
    difference = [TableCell("ours − published")] + [TableCell("")] * (labels - 1)
    for column in columns:
        wanted = [(column.task, entry.split, entry.metric) for entry in entries_of(column)]
        for frame, key, line in ((group, "value", published), (ours, "difference", difference)):
            found = {(r["task"], r["split"], r["metric"]): r[key] for r in frame.to_dict("records")}
            values = [found[w] for w in wanted if w in found and pd.notna(found[w])]
            text = " / ".join(number(value, column.digits, signed=frame is ours) for value in values)
            line.append(TableCell(text) if values else MISSING)
    lines = [published, difference] if any(cell != MISSING for cell in difference[labels:]) else [published]
    return [[*line, TableCell("")] for line in lines]
