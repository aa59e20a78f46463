"""Tables from records: `python -m mtlora.tables EXPERIMENT [overrides] [--runs PATH]` writes Markdown and CSV.

The experiment and its overrides define the cells by `config_sha`; only their records enter the table, so short runs, other
profiles and old sweeps never mix in.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mtlora import cli
from mtlora.cells import Cell, override_key
from mtlora.config import REPOSITORY, lookup, transform_name
from mtlora.errors import UserError
from mtlora.experiment import Column, Plan, load_experiment, make_plan
from mtlora.files import write_text
from mtlora.metrics import METRICS
from mtlora.record import RunRecord, find_records
from mtlora.tasks.sources import low_resource

log = logging.getLogger(__name__)

LONG_COLUMNS = [
    *("table", "suite", "model", "method", "rank", "targets", "task", "split", "metric", "selection"),
    *("n", "mean", "median", "std", "run_ids", "published", "published_source", "difference", "variant"),
]
ROW = ["model", "method", "rank", "targets", "variant"]  # what makes one row of a table
STANDARD_AXES = {"task", "model", "transform", "rank", "seed", "targets", "profile", "results"}
METHOD_ORDER = ["lora", "shim", "icfm", "ctcm", "dtsm"]


def load_records(runs: Path) -> dict[str, RunRecord]:
    """Load every readable record, by config_sha, from a runs folder or a JSON-lines file; name the unreadable ones."""
    records: dict[str, RunRecord] = {}
    for origin, content in _record_contents(runs):
        try:
            record = RunRecord.parse(content.decode("utf-8"))
        except ValueError as error:
            log.warning("%s is left out: %s", origin, error)
            continue
        records[record.config_sha] = record
    return records


def _record_contents(runs: Path) -> Iterator[tuple[str, bytes]]:
    if runs.is_file():
        for number, line in enumerate(runs.read_bytes().splitlines(), 1):
            yield f"{runs}:{number}", line
    elif runs.is_dir():
        for path in find_records(runs):
            yield str(path), path.read_bytes()


def long_frame(plan: Plan, records: dict[str, RunRecord]) -> pd.DataFrame:
    """Return one row per measured value: the row keys, task, seed, split, metric, selection, value on the table's scale."""
    rows = []
    for cell in plan.cells:
        record = records.get(cell.sha)
        if record is None or record.status != "success":
            continue
        keys = row_keys(plan, cell)
        for entry in record.metrics:
            scale = 100 if METRICS[entry["name"]].percent else 1
            rows.append(
                keys
                | {"task": record.task, "seed": record.seed, "run_id": record.run_id}
                | {"split": entry["split"], "metric": entry["name"], "selection": entry["selection"]}
                | {"value": entry["value"] * scale}
            )
    columns = [*ROW, "task", "seed", "run_id", "split", "metric", "selection", "value"]
    return pd.DataFrame(rows, columns=columns)


def row_keys(plan: Plan, cell: Cell) -> dict[str, Any]:
    """Return what tells a cell's table row from another: method, rank, ... and any other swept key, as `variant`."""
    c = cell.config
    swept = {key for key, values in plan.axes.items() if len(values) > 1} - STANDARD_AXES
    variant = " ".join(o for o in cell.overrides if override_key(o) in swept)
    keys = {"model": c.model.name, "method": transform_name(c), "rank": c.adapter.r}
    return keys | {"targets": c.targets, "variant": variant}


def with_average(plan: Plan, frame: pd.DataFrame) -> pd.DataFrame:
    """Add the suite average per seed: the mean of the table's columns, only for seeds that have every one of them."""
    columns = shown_columns(plan)
    picked = pd.concat([_column_values(frame, column) for column in columns])
    groups = picked.groupby([*ROW, "selection", "seed"], sort=False)
    average = groups.agg(value=("value", "mean"), count=("value", "size"), run_id=("run_id", " ".join)).reset_index()
    average = average[average["count"] == len(columns)].drop(columns="count")
    return pd.concat([frame, average.assign(task="average", split="", metric="mean")], ignore_index=True)


def _column_values(frame: pd.DataFrame, column: Column) -> pd.DataFrame:
    match = (frame["task"] == column.task) & (frame["split"] == column.split) & (frame["metric"] == column.metric)
    return frame[match]


def shown_columns(plan: Plan) -> list[Column]:
    """Return the experiment's columns whose task is part of the plan."""
    tasks = {cell.config.task.name for cell in plan.cells}
    return [column for column in plan.experiment.columns if column.task in tasks]


def summary(plan: Plan, records: dict[str, RunRecord]) -> pd.DataFrame:
    """Return the long table (`LONG_COLUMNS`): mean, median and sample standard deviation over seeds.

    Values are on the scale of the paper's tables. A cell without a finished run has no row; one seed has no deviation.
    """
    frame = with_average(plan, long_frame(plan, records))
    keys = [*ROW, "task", "split", "metric", "selection"]
    grouped = frame.groupby(keys, sort=False)
    table = grouped.agg(
        n=("value", "size"),
        mean=("value", "mean"),
        median=("value", "median"),
        std=("value", "std"),
        run_ids=("run_id", " ".join),
    ).reset_index()
    table = table.assign(table=plan.name, suite=plan.experiment.suite)
    return add_published(plan, table)[LONG_COLUMNS]


def add_published(plan: Plan, table: pd.DataFrame) -> pd.DataFrame:
    """Set published numbers beside ours, where they are comparable: the paper's profile on official data."""
    published = pd.read_csv(REPOSITORY / "results" / "published.csv")
    published = published[(published["table"] == plan.experiment.name) & (plan.profile == "paper")]
    published = published.rename(columns={"value": "published", "source": "published_source"})
    keys = ["model", "method", "task", "split", "metric"]
    comparable = all(cell.config.data.source != "builtin" and not cell.config.data.subset for cell in plan.cells)
    published = published if comparable else published.iloc[:0]
    if len(shown_columns(plan)) < len(plan.experiment.columns):  # a published average is over all tasks
        published = published[published["task"] != "average"]
    merged = table.merge(published[[*keys, "published", "published_source"]].fillna({"split": ""}), on=keys, how="left")
    return merged.assign(difference=merged["mean"] - merged["published"])


def cost_frame(plan: Plan, records: dict[str, RunRecord]) -> pd.DataFrame:
    """Return parameters and cost per row and task, means over seeds."""
    rows = []
    for cell in plan.cells:
        record = records.get(cell.sha)
        if record is not None and record.status == "success":
            values = {f"{key}_parameters": value for key, value in record.parameters.items()}
            values |= {key: record.cost[key] for key in ("seconds", "tokens_per_second", "peak_memory_bytes")}
            values["seconds_per_step"] = record.cost["train_seconds"] / record.cost["steps"]
            rows.append(row_keys(plan, cell) | {"task": record.task} | values)
    if not rows:
        return pd.DataFrame(columns=[*ROW, "task", "n"])
    grouped = pd.DataFrame(rows).groupby([*ROW, "task"], sort=False)
    return grouped.mean().assign(n=grouped.size()).reset_index()


def markdown(plan: Plan, table: pd.DataFrame, records: dict[str, RunRecord]) -> str:
    """Render the table that people read: a caption, methods x tasks, and what is missing or uninformative."""
    columns = [*shown_columns(plan), Column("average", "", "mean", _average_label(plan))]
    rows = list(dict.fromkeys(tuple(row_keys(plan, cell).values()) for cell in plan.cells))
    rows.sort(key=lambda row: (row[0], row[3], row[2], row[4], METHOD_ORDER.index(row[1])))
    selected = table[table["selection"] == plan.experiment.selection]
    cells = {
        (tuple(row[key] for key in ROW), row["task"], row["split"], row["metric"]): row
        for row in selected.to_dict("records")
    }
    dull = uninformative(plan, records)
    body = {}
    for column in columns:
        found = [cells.get((row, column.task, column.split, column.metric)) for row in rows]
        means = [f"{cell['mean']:.2f}" for cell in found if cell]
        best = max(means, key=float) if len(means) > 1 else None
        label = column.label + (" †" if column.task in dull else "")
        body[label] = [_cell_text(cell, best) for cell in found]
    frame = pd.DataFrame(_row_labels(plan, rows) | body | {"Adapter parameters": _parameters(plan, records, rows)})
    notes = [caption(plan, table)]
    if dull:
        notes.append(
            f"† LoRA is not above the majority answer on {', '.join(sorted(dull))}: that task says nothing here."
        )
    alignment = ["left"] * (len(frame.columns) - len(columns) - 1) + ["right"] * (len(columns) + 1)
    return "\n\n".join([*notes, frame.to_markdown(index=False, colalign=alignment, disable_numparse=True)]) + "\n"


def _cell_text(cell: Mapping[Any, Any] | None, best: str | None) -> str:
    if cell is None:
        return "–"
    mean = f"{cell['mean']:.2f}"
    text = f"**{mean}**" if mean == best else mean
    return text if cell["n"] == 1 else f"{text} ± {cell['std']:.2f}"


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
    metrics = ", ".join(f"{c.label} {c.metric}" for c in shown_columns(plan))
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
        f"metrics x 100: {metrics}",
    ]
    if any(low_resource(cell.config.task, cell.config.data) for cell in plan.cells):
        parts.append("low-resource: partial training files, not comparable with published figures")
    if config.train.limit_examples:
        parts.append(f"trained on at most {config.train.limit_examples} examples")
    return "; ".join(parts) + "."


def uninformative(plan: Plan, records: dict[str, RunRecord]) -> set[str]:
    """Return the tasks on which LoRA's mean does not exceed that of the majority answer."""
    margins: dict[str, list[float]] = {}
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
                margins.setdefault(column.task, []).append(value - majority[0])
    return {task for task, values in margins.items() if sum(values) / len(values) <= 0}


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
