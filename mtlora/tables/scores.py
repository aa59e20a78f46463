"""The tables of scores, ours and, never mixed with them, as the literature reports them; and of cost."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pandas as pd

from mtlora.config.metrics import METRICS
from mtlora.config.schema import STRUCTURES
from mtlora.plan.experiment import Column
from mtlora.tables.aggregate import Row, above_majority, entries_of, mean_costs, published_rows, row_of
from mtlora.tables.captions import caption, method_label, row_labels, row_names, table_columns
from mtlora.tables.comparison import headlines
from mtlora.tables.evidence import uncommitted
from mtlora.tables.layout import MISSING, TableCell, TextTable, number, text_table
from mtlora.tables.view import View


def scores(view: View) -> TextTable:
    """Return the main table: methods x tasks, mean and standard deviation over seeds."""
    plan = view.plan
    above = above_majority(plan, view.scored)
    nowhere = [task for task, rows in above.items() if not any(rows.values())]
    columns = score_columns(view, plan.experiment.selection, "mean")
    body = {label + " †" * (task in nowhere): cells for (label, task), cells in columns.items()}
    parameters: dict[Row, dict[str, float]] = {row: {} for row in view.rows}
    for cell in plan.cells:
        if (record := view.records.get(cell.sha)) is not None and "adapter" in record.parameters:
            parameters[row_of(plan, cell)][record.run_id] = record.parameters["adapter"]
    body["Adapter parameters"] = [
        TableCell(f"{max(found.values()):,}", max(found.values()), tuple(found))
        if (found := parameters[row])
        else MISSING
        for row in view.rows
    ]
    if view.diverged:
        body["Diverged"] = _diverged_column(view)
    table = text_table(
        plan.name, plan.experiment.title, caption(plan, view.summary, view.records), row_labels(view.rows), body
    )
    if nowhere:
        table.notes.append(
            f"† On {', '.join(sorted(nowhere))} no method beats the majority answer. These scores stay in the average, but say "
            "nothing about the methods."
        )
    for task, rows in above.items():
        below = [row for row, is_above in rows.items() if not is_above]
        if below and task not in nowhere:
            table.notes.append(f"{', '.join(row_names(below, view.rows))}: not above the majority answer on {task}.")
    if others := [method_label(m) for m in dict.fromkeys(row.method for row in view.rows) if m not in STRUCTURES]:
        table.notes.append(
            f"{', '.join(others)}: the same head, batches and dropout as LoRA, but neither its A nor a matched step."
        )
    table.notes += _divergence_notes(view)
    if dirty := uncommitted(view.records.values()):
        table.notes.append(
            f"{dirty} of {len(view.records)} runs come from a checkout with uncommitted changes: "
            "their commit does not identify their code."
        )
    return table


def _diverged_column(view: View) -> list[TableCell]:
    """Return how many of a row's finished runs diverged."""
    failed: dict[Row, list[str]] = {row: [] for row in view.rows}
    finished: Counter[Row] = Counter()
    for cell in view.plan.cells:
        row = row_of(view.plan, cell)
        finished[row] += cell.sha in view.records or cell.sha in view.diverged
        if cell.sha in view.diverged:
            failed[row].append(view.diverged[cell.sha].run_id)
    return [
        TableCell(f"{len(runs)} of {finished[row]}", len(runs), tuple(runs)) if finished[row] else MISSING
        for row, runs in failed.items()
    ]


def _divergence_notes(view: View) -> list[str]:
    """Say whose runs diverged, and how they count."""
    counted = view.plan.experiment.failures == "majority"
    found: dict[Row, list[str]] = {}
    for item in view.cost.to_dict("records"):
        if item["diverged"]:
            found.setdefault(Row.of(item), []).append(f"{item['diverged']} of {item['runs']} on {item['task']}")
    return [
        f"{name}: runs diverged ({', '.join(counts)}); "
        + ("they count as the majority answer." if counted else "its scores are over the others only.")
        for name, counts in zip(row_names(list(found), view.rows), found.values(), strict=True)
    ]


def score_columns(view: View, selection: str, statistic: str) -> dict[tuple[str, str], list[TableCell]]:
    """Return (label, task) -> a cell per row: the statistic over seeds, and the deviation beside a mean."""
    plan = view.plan
    selected = view.summary[view.summary["selection"] == selection]
    found = {(Row.of(item), item["task"], item["split"], item["metric"]): item for item in selected.to_dict("records")}
    columns = table_columns(plan)
    body = {}
    seeds = max((item["n"] for item in found.values()), default=0)
    for column in columns:
        keys = [(column.task, entry.split, entry.metric) for entry in entries_of(column)]
        items = [[item for key in keys if (item := found.get((row, *key)))] for row in view.rows]
        full = [len(entry) == len(keys) and all(item["n"] == seeds for item in entry) for entry in items]
        cells = [_score_cell(entry, column, statistic, len(keys)) for entry in items]
        cells = [  # a mean of fewer seeds is marked, and never the best of its column
            cell if is_full or cell == MISSING else replace(cell, text=f"{cell.text} (n = {entry[0]['n']})")
            for cell, entry, is_full in zip(cells, items, full, strict=True)
        ]
        # One seed says nothing about which method is best.
        body[column.label, column.task] = _best_marked(cells, full, column) if seeds > 1 else cells
    return body


def _score_cell(items: list[dict[Any, Any]], column: Column, statistic: str, wanted: int) -> TableCell:
    if len(items) < wanted:
        return MISSING
    texts = []
    for item in items:
        text = number(item[statistic], column.digits)
        if statistic == "mean" and item["n"] > 1:
            text += f" ± {number(item['std'], column.digits)}"
        texts.append(text)
    value = sum(item[statistic] for item in items) / len(items)
    runs = tuple(dict.fromkeys(run for item in items for run in item["run_ids"].split(" ")))
    return TableCell(" / ".join(texts), float(value), runs)


def _best_marked(cells: list[TableCell], full: list[bool], column: Column) -> list[TableCell]:
    """Mark the best value of a column, as it is printed, where several cells have all seeds, unless it is a tie."""
    values = [
        round(c.value, column.digits) if ok and c.value is not None else None for c, ok in zip(cells, full, strict=True)
    ]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return cells
    lower = column.metric in METRICS and not METRICS[column.metric].higher_is_better
    best = min(known) if lower else max(known)
    if known.count(best) > 1:
        return cells
    return [replace(cell, bold=value == best) for cell, value in zip(cells, values, strict=True)]


def convention(view: View) -> TextTable | None:
    """Return the table by the literature's rule, with published numbers beside ours; None if it would repeat the scores."""
    plan, rule = view.plan, view.plan.experiment.convention
    if rule is None:
        return None
    published = published_rows(plan, view.records)
    published = published[(published["selection"] == rule.selection) & (published["statistic"] == rule.statistic)]
    if published.empty and (rule.selection, rule.statistic) == (plan.experiment.selection, "mean"):
        return None
    body = {label: cells for (label, _), cells in score_columns(view, rule.selection, rule.statistic).items()}
    best, last = (view.headline(selection) for selection in (rule.selection, plan.experiment.selection))
    heads = {c.row: c for c in headlines(view.comparisons)}
    body["Δ to LoRA"] = []
    for row in view.rows:
        c = heads.get(row)
        cell = MISSING if c is None else _less(rule.statistic, best.get(row), best.get(c.base))
        is_paired = c is not None and set(cell.runs) == set(c.runs)  # other seeds alone would be a difference
        body["Δ to LoRA"].append(cell if is_paired else MISSING)
    if rule.selection != plan.experiment.selection:
        body["best − last"] = [_less(rule.statistic, best.get(row), last.get(row)) for row in view.rows]
    text = (
        f"{rule.selection} epoch (by the first metric of each task), {rule.statistic} of seeds, as {rule.source}; Δ is the "
        "difference of these numbers, for the same seeds, without an interval: the other tables say how sure a difference is."
    )
    labels = row_labels(view.rows)
    table = text_table(
        f"{plan.name}-convention", f"{plan.experiment.title} by the literature's rule", text, labels, body
    )
    for _, group in published.groupby(["model", "method", "rank", "targets"], sort=False):
        for line in _published_lines(view, group.fillna({"split": ""}), len(labels)):
            table.rows.append(line + [TableCell("")] * (len(table.header) - len(line)))
        first = group.iloc[0]
        table.notes.append(f"{_published_name(first)}: {first['remark']}.")
    if published.empty:
        table.notes.append("No published number has the model, data and recipe of these runs.")
    return table


def _less(statistic: str, one: dict[Any, Any] | None, other: dict[Any, Any] | None) -> TableCell:
    if one is None or other is None:
        return MISSING
    value, runs = float(one[statistic] - other[statistic]), f"{one['run_ids']} {other['run_ids']}".split(" ")
    return TableCell(number(value, 2, True), value, tuple(dict.fromkeys(runs)))


def _published_name(row: "pd.Series[Any]") -> str:
    return f"{method_label(row['method'])}, {row['source']}"


def _published_lines(view: View, group: pd.DataFrame, labels: int) -> list[list[TableCell]]:
    """Return the line of a published row, and below it our numbers less the published ones, if we have any."""
    plan, first = view.plan, group.iloc[0]
    columns = table_columns(plan)
    keys = ["model", "method", "rank", "targets", "selection"]
    ours = view.summary.merge(pd.DataFrame([first[keys]]), on=keys)
    published = [TableCell(_published_name(first))] + [TableCell("")] * (labels - 1)
    difference = [TableCell("ours − published")] + [TableCell("")] * (labels - 1)
    for column in columns:
        wanted = [(column.task, entry.split, entry.metric) for entry in entries_of(column)]
        for frame, key, line in ((group, "value", published), (ours, "difference", difference)):
            found = {(r["task"], r["split"], r["metric"]): r[key] for r in frame.to_dict("records")}
            values = [found[w] for w in wanted if w in found and pd.notna(found[w])]
            text = " / ".join(number(value, column.digits, signed=frame is ours) for value in values)
            line.append(TableCell(text) if values else MISSING)
    return [published, difference] if any(cell != MISSING for cell in difference[labels:]) else [published]


SPEED = {"ms per step", "tokens/s", "Peak memory, MiB"}  # columns of the table of cost


def cost(view: View) -> TextTable | None:
    """Return parameters, time and memory per row: means over seeds, and over the tasks that all rows with runs have."""
    means, tasks = mean_costs(view.cost)
    if means.empty:
        return None
    runs = {row: tuple(ids.split(" ")) for row, ids in means["run_ids"].items()}
    columns = {
        "Adapter parameters": ("adapter_parameters", 1, 0),
        "Head parameters": ("head_parameters", 1, 0),
        "ms per step": ("seconds_per_step", 1e3, 1),
        "tokens/s": ("tokens_per_second", 1, 0),
        "Peak memory, MiB": ("peak_memory_bytes", 2**-20, 0),
    }
    body = {}
    for title, (key, factor, digits) in columns.items():
        values = [means[key].get(row) for row in view.rows]
        body[title] = [
            MISSING if v is None or v != v else TableCell(f"{v * factor:,.{digits}f}", v * factor, runs[row])
            for row, v in zip(view.rows, values, strict=True)
        ]
    all_tasks = list(dict.fromkeys(cell.config.task.name for cell in view.plan.cells))
    over = "tasks" if len(tasks) == len(all_tasks) else ", ".join(task for task in all_tasks if task in tasks)
    body = {title: cells for title, cells in body.items() if any(cell != MISSING for cell in cells)}
    text = f"means over {over} and seeds; not a benchmark, since runs may have shared the machine; speed and memory are only "
    text += "of runs that trained alone (as with LAUNCHER=local), not in cohorts" + (
        "" if SPEED & body.keys() else ": none here"
    )
    return text_table(
        f"{view.plan.name}-cost", f"{view.plan.experiment.title}: cost", text, row_labels(view.rows), body
    )
