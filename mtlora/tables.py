"""Tables from records: `python -m mtlora.tables EXPERIMENT [overrides] [--runs PATH]` writes Markdown and CSV.

The experiment and its overrides define the cells by `config_sha`; only their records enter the table, so short runs, other
profiles and old sweeps never mix in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mtlora import cli
from mtlora.aggregate import ROW, cost_frame, load_records, row_keys, shown_columns, summary
from mtlora.config import lookup
from mtlora.errors import UserError
from mtlora.experiment import Column, Plan, load_experiment, make_plan
from mtlora.files import write_text
from mtlora.metrics import METRICS
from mtlora.record import RunRecord
from mtlora.tasks.sources import low_resource


def markdown(plan: Plan, table: pd.DataFrame, records: dict[str, RunRecord]) -> str:
    """Render the table that people read: a caption, methods x tasks, and what is missing or uninformative."""
    columns = shown_columns(plan)
    if plan.experiment.average:
        columns.append(Column("average", "", "mean", _average_label(plan)))
    rows = list(dict.fromkeys(tuple(row_keys(plan, cell).values()) for cell in plan.cells))
    rows.sort(key=lambda row: (row[0], row[3], row[2], row[4]))  # stable: methods keep the experiment's order
    selected = table[table["selection"] == plan.experiment.selection]
    cells = {
        (tuple(row[key] for key in ROW), row["task"], row["split"], row["metric"]): row
        for row in selected.to_dict("records")
    }
    dull = uninformative(plan, records)
    body = {}
    for column in columns:
        found = [cells.get((row, column.task, column.split, column.metric)) for row in rows]
        means = [f"{cell['mean']:.{column.digits}f}" for cell in found if cell]
        lower = column.metric in METRICS and not METRICS[column.metric].higher_is_better
        best = (min if lower else max)(means, key=float) if len(means) > 1 else None
        label = column.label + (" †" if column.task in dull else "")
        body[label] = [_cell_text(cell, best, column.digits) for cell in found]
    frame = pd.DataFrame(_row_labels(plan, rows) | body | {"Adapter parameters": _parameters(plan, records, rows)})
    notes = [caption(plan, table)]
    if dull:
        notes.append(
            f"† LoRA is not above the majority answer on {', '.join(sorted(dull))}: that task says nothing here."
        )
    alignment = ["left"] * (len(frame.columns) - len(columns) - 1) + ["right"] * (len(columns) + 1)
    return "\n\n".join([*notes, frame.to_markdown(index=False, colalign=alignment, disable_numparse=True)]) + "\n"


def _cell_text(cell: Mapping[Any, Any] | None, best: str | None, digits: int) -> str:
    if cell is None:
        return "–"
    mean = f"{cell['mean']:.{digits}f}"
    text = f"**{mean}**" if mean == best else mean
    return text if cell["n"] == 1 else f"{text} ± {cell['std']:.{digits}f}"


def _average_label(plan: Plan) -> str:
    shown, all_columns = len(shown_columns(plan)), len(plan.experiment.columns)
    return "Average" if shown == all_columns else f"Average of {shown}"


def _row_labels(plan: Plan, rows: list[tuple[Any, ...]]) -> dict[str, list[str]]:
    """Name each row by its method, and by whatever else differs between rows."""
    labels = {"Method": ["LoRA" if row[1] == "lora" else f"MTLoRA {row[1].upper()}" for row in rows]}
    for position, title in ((2, "r"), (0, "Model"), (3, "Targets"), (4, "Variant")):
        values = [str(row[position]) for row in rows]
        if len(set(values)) > 1:
            labels[title] = values
    return labels


def _parameters(plan: Plan, records: dict[str, RunRecord], rows: list[tuple[Any, ...]]) -> list[str]:
    found: dict[tuple[Any, ...], int] = {}
    for cell in plan.cells:
        record = records.get(cell.sha)
        if record is not None and record.status == "success":
            found[tuple(row_keys(plan, cell).values())] = record.parameters["adapter"]
    return [f"{found[row]:,}" if row in found else "–" for row in rows]


def caption(plan: Plan, table: pd.DataFrame) -> str:
    """State what a reader must know: seeds, split, metrics, selection rule, profile, data."""
    config = plan.cells[0].config
    counts = sorted({int(n) for n in table["n"]})
    splits = ", ".join(dict.fromkeys(column.split for column in shown_columns(plan)))
    planned = len({cell.config.seed for cell in plan.cells})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}" if counts else "n = 0"
    single = {key: {lookup(cell.config, key) for cell in plan.cells} for key in ("model.name", "targets", "adapter.r")}
    fixed = [
        f"{label} {values.pop()}"
        for label, values in zip(("model", "targets", "r ="), single.values(), strict=True)
        if len(values) == 1
    ]
    parts = [
        f"**{plan.experiment.title}**, {', '.join(fixed)}; profile {plan.profile}, data: {config.data.source}",
        f"mean ± sample standard deviation over seeds ({n} of {planned} planned), {plan.experiment.selection} epoch",
        f"splits: {splits}",
        _metrics_text(shown_columns(plan)),
    ]
    if any(low_resource(cell.config.task, cell.config.data) for cell in plan.cells):
        parts.append("low-resource: partial training files, not comparable with published figures")
    if config.train.limit_examples:
        parts.append(f"trained on at most {config.train.limit_examples} examples")
    if config.task.kind == "generation" and config.decode.limit_contexts:
        parts.append(f"scored on at most {config.decode.limit_contexts} contexts of the test set")
    return "; ".join(parts) + "."


def _metrics_text(columns: list[Column]) -> str:
    """Say which metric each column shows, and which of them are times 100."""
    if all(column.scale is None and METRICS[column.metric].percent for column in columns):
        return "metrics x 100: " + ", ".join(f"{column.label} {column.metric}" for column in columns)
    scaled = list(dict.fromkeys(column.metric for column in columns if column.scale == 100))
    lower = list(dict.fromkeys(c.metric for c in columns if not METRICS[c.metric].higher_is_better))
    text = "metrics: " + ", ".join(dict.fromkeys(column.metric for column in columns))
    text += f" ({', '.join(scaled)} x 100)" if scaled else ""
    return text + (f"; lower is better for {', '.join(lower)}" if lower else "")


def uninformative(plan: Plan, records: dict[str, RunRecord]) -> set[str]:
    """Return the tasks on which LoRA's mean does not exceed that of the majority answer (in any of LoRA's rows)."""
    margins: dict[tuple[Any, ...], list[float]] = {}
    for column in shown_columns(plan):
        for cell in plan.cells:
            record = records.get(cell.sha)
            if record is None or record.status != "success" or (record.task, record.transform) != (column.task, "lora"):
                continue
            value = record.metric(column.metric, column.split, plan.experiment.selection)
            majority = [
                b["value"] for b in record.baselines if (b["name"], b["split"]) == (column.metric, column.split)
            ]
            if value is not None and majority:
                key = (column.task, *row_keys(plan, cell).values())
                margins.setdefault(key, []).append(value - majority[0])
    return {key[0] for key, values in margins.items() if sum(values) / len(values) <= 0}


def write_tables(plan: Plan, runs: Path, folder: Path) -> str:
    """Write the plan's Markdown, CSV and cost files; return the Markdown."""
    records = load_records(runs)
    table = summary(plan, records)
    text = markdown(plan, table, records)
    write_text(folder / f"{plan.name}.md", text)
    write_text(folder / f"{plan.name}.csv", table.to_csv(index=False))
    write_text(folder / f"{plan.name}_cost.csv", cost_frame(plan, records).to_csv(index=False))
    return text


def main() -> None:
    """Parse the command line, write the files, print the Markdown."""
    parser = cli.experiment_parser("mtlora.tables", "Make an experiment's tables from records.")
    parser.add_argument("--runs", type=Path, help="a runs folder or a records.jsonl (default: RESULTS/runs)")
    arguments = parser.parse_intermixed_args()
    plan = make_plan(load_experiment(arguments.experiment), arguments.overrides)
    results = Path(plan.cells[0].config.results)
    runs = arguments.runs or results / "runs"
    if arguments.runs is not None and not runs.exists():
        raise UserError(f"--runs {runs}: there is no such folder or file")
    print(write_tables(plan, runs, results / "tables"), end="")


if __name__ == "__main__":
    cli.run(main)
