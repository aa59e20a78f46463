"""From records to numbers: one long table of means, medians and deviations over seeds, with published figures beside them."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from mtlora.cells import Cell, override_key
from mtlora.config import REPOSITORY, transform_name
from mtlora.errors import UserError
from mtlora.experiment import Column, Plan
from mtlora.metrics import METRICS
from mtlora.record import RunRecord, find_records

log = logging.getLogger(__name__)

LONG_COLUMNS = [
    *("table", "suite", "model", "method", "rank", "targets", "task", "split", "metric", "selection"),
    *("n", "mean", "median", "std", "run_ids", "published", "published_source", "difference", "variant"),
]
ROW = ["model", "method", "rank", "targets", "variant"]  # what makes one row of a table
# Overrides that leave a paper's recipe as it is (rank and targets are matched with the published row's).
PLACES = {"task", "model", "transform", "rank", "targets", "seed", "profile", "results", "tracking", "model.path"}
PLACES |= {"data.source", "data.root", "compute.device", "compute.threads", "compute.cpu_gemm", "tracking.mode"}
STANDARD_AXES = {"task", "model", "transform", "rank", "seed", "targets", "profile", "results"}


def load_records(runs: Path) -> dict[str, RunRecord]:
    """Load every readable record, by config_sha, from a runs folder or a JSON-lines file; name the unreadable ones."""
    records: dict[str, RunRecord] = {}
    unreadable: list[str] = []
    for origin, content in _record_contents(runs):
        try:
            record = RunRecord.parse(content.decode("utf-8"))
        except ValueError as error:
            unreadable.append(f"{origin} is left out: {error}")
            continue
        known = records.get(record.config_sha)
        if known is None or known.status != "success":  # a failed attempt elsewhere hides no result
            records[record.config_sha] = record
    if unreadable and not records and runs.is_file():
        raise UserError(f"{runs} holds no record: name a runs folder, or a file with one record.json a line")
    for line in unreadable:
        log.warning("%s: delete its folder to train the run again", line)
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
    own = {(c.task, c.split, c.metric): c.scale for c in plan.experiment.columns if c.scale is not None}
    for cell in plan.cells:
        record = records.get(cell.sha)
        if record is None or record.status != "success":
            continue
        keys = row_keys(plan, cell)
        for entry in record.metrics:
            usual = 100.0 if METRICS[entry["name"]].percent else 1.0
            scale = own.get((record.task, entry["split"], entry["name"]), usual)
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
    frame = long_frame(plan, records)
    if plan.experiment.average:
        frame = with_average(plan, frame)
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
    """Set published numbers beside ours, where they are comparable: official data, and the paper's recipe as it is.

    `difference` is our mean less a published mean, or our median less a published median.
    """
    published = pd.read_csv(REPOSITORY / "results" / "published.csv")
    published = published[published["table"] == plan.experiment.name]
    published = published.rename(columns={"value": "published", "source": "published_source"})
    keys = ["model", "method", "rank", "targets", "task", "split", "metric", "selection"]
    published = published if all(map(comparable, plan.cells)) else published.iloc[:0]
    if len(shown_columns(plan)) < len(plan.experiment.columns):  # a published average is over all tasks
        published = published[published["task"] != "average"]
    values = published[[*keys, "published", "published_source", "statistic"]].fillna({"split": ""})
    merged = table.merge(values, on=keys, how="left")
    ours = merged["median"].where(merged["statistic"] == "median", merged["mean"])
    return merged.assign(difference=ours - merged["published"])


def comparable(cell: Cell) -> bool:
    """Tell whether a cell's results may stand beside published ones: the paper's data, nothing of its recipe changed."""
    changed = {key for key in map(override_key, cell.overrides) if key not in PLACES}
    data = cell.config.data
    return cell.config.profile == "paper" and data.source != "builtin" and not data.subset and not changed


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
