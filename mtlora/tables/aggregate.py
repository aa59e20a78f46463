"""One long table of means, medians and deviations over seeds from records, with published numbers beside them."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any, NamedTuple

import pandas as pd

from mtlora.base.paths import PUBLISHED
from mtlora.config.metrics import METRICS
from mtlora.plan.cell import Cell, override_key
from mtlora.plan.experiment import Column, Entry
from mtlora.plan.grid import Plan
from mtlora.records.record import RunRecord
from mtlora.tables.comparable import comparable

LONG_COLUMNS = [
    *("table", "suite", "model", "method", "rank", "targets", "task", "split", "metric", "selection"),
    *("n", "mean", "median", "std", "run_ids", "published", "published_source", "difference", "protocol", "variant"),
]
COSTS = (  # of a run
    *("adapter_parameters", "head_parameters", "total_parameters"),
    *("seconds", "tokens_per_second", "peak_memory_bytes", "seconds_per_step"),
)
STANDARD_AXES = {"task", "model", "transform", "rank", "seed", "targets", "profile", "protocol", "tuning", "results"}


class Row(NamedTuple):
    """One row of a table: the settings that its cells share; their tasks and seeds differ."""

    model: str
    method: str
    rank: int
    targets: str
    protocol: str
    variant: str  # any other swept keys, with their values

    @property
    def setting(self) -> "Row":
        """The row without its method: methods are compared within a setting."""
        return self._replace(method="")

    @classmethod
    def of(cls, item: Mapping[Any, Any]) -> "Row":
        """Return the row of a data frame's record, which has a key for each field."""
        return cls(*(item[name] for name in cls._fields))


def scale_of(column: Column) -> float:
    """Return the factor of a column's raw values."""
    return column.scale or METRICS[column.metric].scale


def long_frame(plan: Plan, records: Mapping[str, RunRecord], cells: Sequence[Cell] | None = None) -> pd.DataFrame:
    """Return one row per measured value: the row keys, task, seed, split, metric, selection, value on the table's scale.

    Args:
        plan: the plan.
        records: its records, by config_sha.
        cells: some of its cells (default: all cells of the tables).
    """
    rows = []
    own = {(c.task, c.split, c.metric): scale_of(c) for c in plan.experiment.columns}
    for cell in plan.cells if cells is None else cells:
        if (record := records.get(cell.sha)) is None:
            continue
        task = cell.config.task.name
        keys = row_of(plan, cell)._asdict() | {"task": task, "seed": cell.config.seed, "run_id": record.run_id}
        for entry in record.metrics:
            scale = own.get((task, entry["split"], entry["name"]), METRICS[entry["name"]].scale)
            rows.append(
                keys
                | {"split": entry["split"], "metric": entry["name"], "selection": entry["selection"]}
                | {"value": entry["value"] * scale}
            )
    columns = [*Row._fields, "task", "seed", "run_id", "split", "metric", "selection", "value"]
    return pd.DataFrame(rows, columns=columns)


def row_of(plan: Plan, cell: Cell) -> Row:
    """Return the row of the table that a cell belongs to."""
    c = cell.config
    swept = {key for key, values in plan.axes.items() if len(values) > 1} - STANDARD_AXES
    variant = " ".join(o for o in cell.overrides if override_key(o) in swept)
    return Row(c.model.name, c.adapter.method, c.adapter.r, c.targets, c.protocol, variant)


def above_majority(plan: Plan, records: Mapping[str, RunRecord]) -> dict[str, dict[Row, bool]]:
    """Tell by task and row whether the mean score exceeds that of the majority answer; tasks without one are left out."""
    margins: dict[str, dict[Row, list[float]]] = {}
    firsts = {column.task: (column.metric, column.split) for column in reversed(plan.columns)}
    for cell in plan.cells:
        if (record := records.get(cell.sha)) is None or (task := cell.config.task.name) not in firsts:
            continue
        value = record.metric(*firsts[task], plan.experiment.selection)
        majority = [b["value"] for b in record.baselines if (b["name"], b["split"]) == firsts[task]]
        if value is not None and majority:
            margins.setdefault(task, {}).setdefault(row_of(plan, cell), []).append(value - majority[0])
    return {
        task: {row: sum(values) / len(values) > 1e-12 for row, values in rows.items()} for task, rows in margins.items()
    }


def column_values(plan: Plan, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a value per row, selection, seed and column number; a pair of scores counts as its mean."""
    parts = []
    for number, column in enumerate(plan.columns):
        found = frame["task"] == column.task
        entries = entries_of(column)
        either = pd.Series(False, index=frame.index)
        for entry in entries:
            either |= (frame["split"] == entry.split) & (frame["metric"] == entry.metric)
        groups = frame[found & either].groupby([*Row._fields, "selection", "seed", "run_id"], sort=False)
        values = groups.agg(value=("value", "mean"), count=("value", "size")).reset_index()
        parts.append(values[values["count"] == len(entries)].drop(columns="count").assign(column=number))
    return pd.concat(parts, ignore_index=True)


def entries_of(column: Column) -> list[Entry]:
    """Return the one or two metrics of a column."""
    return [Entry(column.split, column.metric), *([column.beside] if column.beside else [])]


def average_column(plan: Plan) -> Column:
    """Return the column of the suite's average; of a single task it has that task's label, because it is no average."""
    shown, every = len(plan.columns), len(plan.experiment.columns)
    label = plan.columns[0].label if shown == 1 else "Average" if shown == every else f"Average of {shown}"
    return Column("average", "", "mean", label)


def summary(plan: Plan, records: Mapping[str, RunRecord]) -> pd.DataFrame:
    """Return the long table (`LONG_COLUMNS`) of usable records: mean, median and sample standard deviation over seeds.

    Values are on the scale of the paper's tables. A cell without a finished run has no row; a single seed has no deviation.
    """
    frame = long_frame(plan, records)
    keys = [*Row._fields, "task", "split", "metric", "selection"]
    table = _statistics(frame, keys)
    if plan.experiment.average:
        table = pd.concat([table, _averages(plan, column_values(plan, frame))], ignore_index=True)
    return add_published(plan, records, table.assign(table=plan.name, suite=plan.experiment.suite))[LONG_COLUMNS]


def _statistics(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    return (
        frame.groupby(keys, sort=False)
        .agg(
            n=("value", "size"),
            mean=("value", "mean"),
            median=("value", "median"),
            std=("value", "std"),
            run_ids=("run_id", " ".join),
        )
        .reset_index()
    )


def _averages(plan: Plan, values: pd.DataFrame) -> pd.DataFrame:
    """Return the suite average of each row: the mean over tasks of their means, or of their medians.

    The literature averages the tasks' medians, too. The deviation is that of the averages by seed, over the seeds that have
    every task; a row that lacks a task has no average.
    """
    keys = [*Row._fields, "selection"]
    tasks = _statistics(values, [*keys, "column"]).groupby(keys, sort=False)
    found = tasks.agg(
        n=("n", "min"),
        mean=("mean", "mean"),
        median=("median", "mean"),
        count=("n", "size"),
        run_ids=("run_ids", " ".join),
    )
    by_seed = values.groupby([*keys, "seed"], sort=False).agg(value=("value", "mean"), count=("value", "size"))
    whole = by_seed[by_seed["count"] == len(plan.columns)]["value"].groupby(level=keys, sort=False)
    found = found[found["count"] == len(plan.columns)].join(whole.std().rename("std"))
    return found.drop(columns="count").reset_index().assign(task="average", split="", metric="mean")


def add_published(plan: Plan, records: Mapping[str, RunRecord], table: pd.DataFrame) -> pd.DataFrame:
    """Add published numbers beside ours, if they are comparable: official data and the unchanged recipe of the paper.

    `difference` is our mean less a published mean, or our median less a published median.
    """
    published = published_rows(plan, records).rename(columns={"value": "published", "source": "published_source"})
    keys = ["model", "method", "rank", "targets", "task", "split", "metric", "selection"]
    values = published[[*keys, "published", "published_source", "statistic"]].fillna({"split": ""})
    merged = table.merge(values, on=keys, how="left")
    ours = merged["median"].where(merged["statistic"] == "median", merged["mean"])
    return merged.assign(difference=ours - merged["published"])


def published_rows(plan: Plan, records: Mapping[str, RunRecord]) -> pd.DataFrame:
    """Return the published numbers that may stand beside a plan's runs; none unless every cell is comparable."""
    published = pd.read_csv(PUBLISHED)
    shown = {(row.model, row.rank, row.targets) for row in (row_of(plan, cell) for cell in plan.cells)}
    fits = pd.MultiIndex.from_frame(published[["model", "rank", "targets"]]).isin(shown)
    published = published[(published["table"] == plan.experiment.name) & fits]
    if len(plan.columns) < len(plan.experiment.columns):  # a published average is over all tasks
        published = published[published["task"] != "average"]
    fair = all(comparable(cell, records.get(cell.sha)) for cell in plan.cells)
    return published if fair else published.iloc[:0]


def cost_frame(
    plan: Plan, records: Mapping[str, RunRecord], diverged: Mapping[str, RunRecord] | None = None
) -> pd.DataFrame:
    """Return parameters and cost per row and task, means over seeds; speed and memory only of runs that trained alone.

    `n` runs are behind the means. `runs` counts those that diverged, too, and `diverged` only them.
    """
    rows = []
    for cell in plan.cells:
        keys = row_of(plan, cell)._asdict() | {"task": cell.config.task.name}
        if (record := records.get(cell.sha)) is not None:
            rows.append(keys | {"run_ids": record.run_id, "diverged": 0} | _costs(record))
        elif diverged and cell.sha in diverged:
            rows.append(keys | {"run_ids": "", "diverged": 1})
    if not rows:
        return pd.DataFrame(columns=[*Row._fields, "task", "n", "runs", "diverged", "run_ids"])
    grouped = pd.DataFrame(rows).groupby([*Row._fields, "task"], sort=False)
    means = grouped.mean(numeric_only=True).drop(columns="diverged")
    runs, failed = grouped.size(), grouped["diverged"].sum()
    ids = grouped["run_ids"].agg(lambda part: " ".join(filter(None, part)))
    return means.assign(n=runs - failed, runs=runs, diverged=failed, run_ids=ids).reset_index()


def _costs(record: RunRecord) -> dict[str, float]:
    values: dict[str, Any] = {**record.cost, **{f"{name}_parameters": n for name, n in record.parameters.items()}}
    values["seconds_per_step"] = values.get("train_seconds", nan) / (values.get("steps") or nan)
    if "cohort" in record.provenance:  # the method does not decide the run's share of the cohort's time and memory
        values |= dict.fromkeys(("tokens_per_second", "peak_memory_bytes", "seconds_per_step"), nan)
    return {name: values.get(name, nan) for name in COSTS}


def mean_costs(frame: pd.DataFrame, key: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Return the means of a cost frame by row, over the tasks that all rows with runs have, and these tasks.

    Args:
        frame: of `cost_frame`.
        key: a column; only rows and tasks for which it is known count.
    """
    keys = list(Row._fields)
    frame = frame[frame["n"] > 0].dropna(subset=[key] if key in frame else [])
    if frame.empty:
        return frame.iloc[:0].set_index(keys), []
    counts = frame.groupby("task", sort=False).size()
    tasks = list(counts[counts == counts.max()].index)
    grouped = frame[frame["task"].isin(tasks)].groupby(keys, sort=False)
    means = grouped[list(COSTS)].mean().assign(run_ids=grouped["run_ids"].agg(" ".join))
    return means[grouped.size() == len(tasks)], tasks
