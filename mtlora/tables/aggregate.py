"""From records to numbers: one long table of means, medians and deviations over seeds, with published figures beside them."""

from collections.abc import Mapping
from math import nan
from typing import Any

import pandas as pd

from mtlora.base.paths import PUBLISHED
from mtlora.config.metrics import METRICS
from mtlora.config.schema import transform_name
from mtlora.plan.cell import Cell, override_key
from mtlora.plan.experiment import Column, Entry
from mtlora.plan.grid import Plan
from mtlora.records.record import RunRecord

LONG_COLUMNS = [
    *("table", "suite", "model", "method", "rank", "targets", "task", "split", "metric", "selection"),
    *("n", "mean", "median", "std", "run_ids", "published", "published_source", "difference", "variant"),
]
ROW = ["model", "method", "rank", "targets", "variant"]  # what makes one row of a table
# Overrides that leave a paper's recipe as it is (rank and targets are matched with the published row's).
PLACES = {"task", "model", "transform", "rank", "targets", "seed", "profile", "results", "tracking", "model.path"}
PLACES |= {"data.source", "data.root", "compute.device", "compute.threads", "compute.cpu_gemm", "tracking.mode"}
STANDARD_AXES = {"task", "model", "transform", "rank", "seed", "targets", "profile", "results"}


def long_frame(plan: Plan, records: dict[str, RunRecord]) -> pd.DataFrame:
    """Return one row per measured value: the row keys, task, seed, split, metric, selection, value on the table's scale."""
    rows = []
    own = {(c.task, c.split, c.metric): c.scale for c in plan.experiment.columns if c.scale is not None}
    for cell in plan.cells:
        if (record := records.get(cell.sha)) is None:
            continue
        task = cell.config.task.name
        keys = row_keys(plan, cell) | {"task": task, "seed": cell.config.seed, "run_id": record.run_id}
        for entry in record.metrics:
            usual = 100.0 if METRICS[entry["name"]].percent else 1.0
            scale = own.get((task, entry["split"], entry["name"]), usual)
            rows.append(
                keys
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


def column_values(plan: Plan, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a value per row, selection, seed and number of the column; a pair of figures counts as its mean."""
    parts = []
    for number, column in enumerate(shown_columns(plan)):
        found = frame["task"] == column.task
        entries = entries_of(column)
        either = pd.Series(False, index=frame.index)
        for entry in entries:
            either |= (frame["split"] == entry.split) & (frame["metric"] == entry.metric)
        groups = frame[found & either].groupby([*ROW, "selection", "seed", "run_id"], sort=False)
        values = groups.agg(value=("value", "mean"), count=("value", "size")).reset_index()
        parts.append(values[values["count"] == len(entries)].drop(columns="count").assign(column=number))
    return pd.concat(parts, ignore_index=True)


def entries_of(column: Column) -> list[Entry]:
    """Return the one or two figures of a column."""
    return [Entry(column.split, column.metric), *([column.beside] if column.beside else [])]


def with_average(plan: Plan, frame: pd.DataFrame) -> pd.DataFrame:
    """Add the suite average per seed: the mean of the table's columns, only for seeds that have every one of them."""
    groups = column_values(plan, frame).groupby([*ROW, "selection", "seed"], sort=False)
    average = groups.agg(value=("value", "mean"), count=("value", "size"), run_id=("run_id", " ".join)).reset_index()
    average = average[average["count"] == len(shown_columns(plan))].drop(columns="count")
    return pd.concat([frame, average.assign(task="average", split="", metric="mean")], ignore_index=True)


def shown_columns(plan: Plan) -> list[Column]:
    """Return the experiment's columns whose task is part of the plan."""
    return plan.columns


def summary(plan: Plan, records: dict[str, RunRecord]) -> pd.DataFrame:
    """Return the long table (`LONG_COLUMNS`) of usable records: mean, median and sample standard deviation over seeds.

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
    published = published_rows(plan).rename(columns={"value": "published", "source": "published_source"})
    keys = ["model", "method", "rank", "targets", "task", "split", "metric", "selection"]
    values = published[[*keys, "published", "published_source", "statistic"]].fillna({"split": ""})
    merged = table.merge(values, on=keys, how="left")
    ours = merged["median"].where(merged["statistic"] == "median", merged["mean"])
    return merged.assign(difference=ours - merged["published"])


def published_rows(plan: Plan) -> pd.DataFrame:
    """Return the published figures that may stand beside a plan's runs; none unless every cell is comparable."""
    published = pd.read_csv(PUBLISHED)
    shown = {(key["model"], key["rank"], key["targets"]) for key in (row_keys(plan, cell) for cell in plan.cells)}
    fits = pd.MultiIndex.from_frame(published[["model", "rank", "targets"]]).isin(shown)
    published = published[(published["table"] == plan.experiment.name) & fits]
    if len(shown_columns(plan)) < len(plan.experiment.columns):  # a published average is over all tasks
        published = published[published["task"] != "average"]
    return published if all(map(comparable, plan.cells)) else published.iloc[:0]


def comparable(cell: Cell) -> bool:
    """Tell whether a cell's results may stand beside published ones: the paper's data, nothing of its recipe changed."""
    changed = {key for key in map(override_key, cell.overrides) if key not in PLACES}
    data = cell.config.data
    return cell.config.profile == "paper" and data.source != "builtin" and not data.subset and not changed


def cost_frame(plan: Plan, records: dict[str, RunRecord]) -> pd.DataFrame:
    """Return parameters and cost per row and task, means over seeds; speed and memory of runs alone only."""
    rows = []
    for cell in plan.cells:
        record = records.get(cell.sha)
        if record is not None:
            values = {f"{key}_parameters": _number(record.parameters, key) for key in ("adapter", "head", "total")}
            values |= {key: _number(record.cost, key) for key in ("seconds", "tokens_per_second", "peak_memory_bytes")}
            values["seconds_per_step"] = _number(record.cost, "train_seconds") / (_number(record.cost, "steps") or nan)
            if "cohort" in record.provenance:  # its share of what all took says nothing about its method
                values |= dict.fromkeys(("tokens_per_second", "peak_memory_bytes", "seconds_per_step"), nan)
            rows.append(row_keys(plan, cell) | {"task": cell.config.task.name, "run_ids": record.run_id} | values)
    if not rows:
        return pd.DataFrame(columns=[*ROW, "task", "n", "run_ids"])
    grouped = pd.DataFrame(rows).groupby([*ROW, "task"], sort=False)
    means = grouped.mean(numeric_only=True)
    return means.assign(n=grouped.size(), run_ids=grouped["run_ids"].agg(" ".join)).reset_index()


def _number(values: Mapping[str, object], key: str) -> float:
    value = values.get(key)
    return float(value) if isinstance(value, int | float) else nan
