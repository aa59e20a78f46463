"""The tables of scores and of cost, and the literature's convention beside published numbers."""

from typing import Any

from mtlora.analysis.aggregate import ROW, entries_of, shown_columns
from mtlora.analysis.captions import average_column, caption, row_labels, uninformative
from mtlora.analysis.comparison import Row, row_of
from mtlora.analysis.layout import MISSING, TableCell, TextTable, number, text_table
from mtlora.analysis.view import View
from mtlora.experiment import Column
from mtlora.metrics import METRICS


def scores(view: View) -> TextTable:
    """Return the main table: methods x tasks, mean and standard deviation over seeds."""
    plan = view.plan
    dull = uninformative(plan, view.records)
    columns = score_columns(view, plan.experiment.selection, "mean")
    body = {label + (" †" if dull.get(task, ((), False))[1] else ""): cells for (label, task), cells in columns.items()}
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
    table = text_table(plan.name, plan.experiment.title, caption(plan, view.summary), row_labels(view.rows), body)
    everywhere = sorted(task for task, (_, every) in dull.items() if every)
    if everywhere:
        table.notes.append(
            f"† LoRA is not above the majority answer on {', '.join(everywhere)}: that task says nothing here."
        )
    for task, (rows, every) in dull.items():
        if not every:
            names = [" ".join(values) for values in zip(*row_labels(rows, view.rows).values(), strict=True)]
            table.notes.append(f"{', '.join(names)}: not above the majority answer on {task}.")
    return table


def score_columns(view: View, selection: str, statistic: str) -> dict[tuple[str, str], list[TableCell]]:
    """Return (label, task) -> a cell per row: the statistic over seeds, and the deviation beside a mean."""
    plan = view.plan
    selected = view.summary[view.summary["selection"] == selection]
    found = {
        (tuple(item[key] for key in ROW), item["task"], item["split"], item["metric"]): item
        for item in selected.to_dict("records")
    }
    columns = shown_columns(plan)
    if plan.experiment.average:
        columns = [*columns, average_column(plan)]
    body = {}
    for column in columns:
        keys = [(column.task, entry.split, entry.metric) for entry in entries_of(column)]
        items = [[found.get((row, *key)) for key in keys] for row in view.rows]
        body[column.label, column.task] = _best_marked(
            [_score_cell([i for i in entry if i], column, statistic, len(keys)) for entry in items], column
        )
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


def _best_marked(cells: list[TableCell], column: Column) -> list[TableCell]:
    """Mark the best value of a column, as it is printed, where there are several."""
    values = [round(cell.value, column.digits) for cell in cells if cell.value is not None]
    if len(values) < 2:
        return cells
    lower = column.metric in METRICS and not METRICS[column.metric].higher_is_better
    best = min(values) if lower else max(values)
    return [
        TableCell(c.text, c.value, c.runs, c.value is not None and round(c.value, column.digits) == best) for c in cells
    ]


def cost(view: View) -> TextTable | None:
    """Return parameters, time and memory per row, means over tasks and seeds; only of rows that have every task."""
    frame = view.cost
    if frame.empty:
        return None
    tasks = len({cell.config.task.name for cell in view.plan.cells})
    grouped = frame.groupby(ROW, sort=False)
    means = grouped[[c for c in frame.columns if c not in (*ROW, "task", "n", "run_ids")]].mean()
    means = means[grouped.size() == tasks]
    runs = {row: tuple(" ".join(part).split(" ")) for row, part in grouped["run_ids"]}
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
    text = "means over tasks and seeds of the runs as they were made, maybe several at once: no benchmark"
    return text_table(
        f"{view.plan.name}-cost", f"{view.plan.experiment.title}: cost", text, row_labels(view.rows), body
    )
