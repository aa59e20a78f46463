"""The names and captions of tables."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import pandas as pd
from omegaconf import OmegaConf

from mtlora.base.paths import CONF
from mtlora.config.metrics import METRICS
from mtlora.plan.experiment import Column
from mtlora.plan.grid import Plan
from mtlora.records.record import RunRecord
from mtlora.tables.aggregate import Row, average_column, entries_of, row_of

# What each protocol holds equal between methods.
PROTOCOLS = {
    "published": "published recipe: one learning rate and one alpha for all methods, so their steps differ",
    "matched": "matched steps: alpha such that the first steps of all methods are equally large; one learning rate",
    "tuned": "tuned: alpha as in matched, and each method at its own learning rate, chosen on held-out data",
}


@lru_cache
def method_label(method: str) -> str:
    """Return the printed name of a method."""
    path = CONF / "transform" / f"{method}.yaml"
    if not path.is_file():
        return method
    content = OmegaConf.load(path)
    return str(OmegaConf.select(content, "label") or OmegaConf.select(content, "adapter.label") or method)


def row_labels(rows: Sequence[Row], among: Sequence[Row] = ()) -> dict[str, list[str]]:
    """Return the columns that name rows: the method, and each other field that differs among `among` (default: `rows`)."""
    labels = {"Method": [method_label(row.method) for row in rows]}
    titles = {"rank": "r", "model": "Model", "targets": "Targets", "protocol": "Protocol", "variant": "Variant"}
    for name, title in titles.items():
        if len({getattr(row, name) for row in among or rows}) > 1:
            labels[title] = [str(getattr(row, name)) or "–" for row in rows]
    return labels


def row_names(rows: Sequence[Row], among: Sequence[Row]) -> list[str]:
    """Return a name of each row: its method, and each other field that differs among `among`."""
    return [" ".join(values) for values in zip(*row_labels(rows, among).values(), strict=True)]


def table_columns(plan: Plan) -> list[Column]:
    """Return the columns of a plan's tables: its tasks' columns, and their average if there are several."""
    columns = plan.columns
    return [*columns, average_column(plan)] if plan.experiment.average and len(columns) > 1 else columns


def headline_subject(plan: Plan) -> str:
    """Name the score that has a verdict."""
    h = plan.experiment.headline
    if h.task != "average":
        return f"{h.metric} on {h.split}"
    return "average over tasks" if len(plan.columns) > 1 else plan.columns[0].label


def caption(plan: Plan, table: pd.DataFrame, records: Mapping[str, RunRecord]) -> str:
    """State the seeds, splits, metrics, selection rule, profile and data."""
    config = plan.cells[0].config
    counts = sorted({int(n) for n in table["n"]})
    splits = ", ".join(dict.fromkeys(e.split for column in plan.columns for e in entries_of(column)))
    planned = len({cell.config.seed for cell in plan.cells})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}" if counts else "n = 0"
    rows = [row_of(plan, cell) for cell in plan.cells]
    fixed = [
        f"{label} {values.pop()}"
        for label, name in (("model", "model"), ("targets", "targets"), ("r =", "rank"))
        if len(values := {getattr(row, name) for row in rows}) == 1
    ]
    parts = [
        f"{', '.join(fixed)}; profile {plan.profile}, data: {config.data.source}",
        *(PROTOCOLS[protocol] for protocol in plan.protocols),
        f"mean ± sample standard deviation over seeds ({n} of {planned} planned), {plan.experiment.selection} epoch",
        f"splits: {splits}",
        _metrics_text(plan.columns),
    ]
    if any(record.low_resource for record in records.values()):
        parts.append("low-resource: partial training files, not comparable with published numbers")
    if others := _other_rows(plan, records):
        parts.append(f"the number of rows differs from the official data on {', '.join(others)}")
    if config.model.quantization:
        parts.append(f"backbone quantised to {config.model.quantization}")
    if config.train.limit_examples:
        parts.append(f"trained on at most {config.train.limit_examples} examples")
    if config.task.kind == "generation" and config.decode.limit_contexts:
        parts.append(f"scored on at most {config.decode.limit_contexts} contexts of the test set")
    return "; ".join(parts) + "."


def _other_rows(plan: Plan, records: Mapping[str, RunRecord]) -> list[str]:
    """Return the tasks of which a local file had another number of rows than the official one."""
    found = []
    for cell in plan.cells:
        rows = records[cell.sha].provenance.get("rows", {}) if cell.sha in records else {}
        sizes = dict(cell.config.task.sizes)
        if cell.config.decode.limit_contexts:
            sizes.pop("test", None)  # only the decoded contexts are counted
        if cell.config.data.source == "local" and any(sizes.get(s, n) != n for s, n in rows.items()):
            found.append(cell.config.task.name)
    return list(dict.fromkeys(found))


def _metrics_text(columns: list[Column]) -> str:
    """List the metric of each column, and the metrics that are multiplied by 100."""
    if all(column.scale is None and METRICS[column.metric].scale == 100 for column in columns):
        names = [f"{c.label} {' and '.join(dict.fromkeys(e.metric for e in entries_of(c)))}" for c in columns]
        return "metrics x 100: " + ", ".join(names)
    scaled = list(dict.fromkeys(column.metric for column in columns if column.scale == 100))
    lower = list(dict.fromkeys(c.metric for c in columns if not METRICS[c.metric].higher_is_better))
    text = "metrics: " + ", ".join(dict.fromkeys(column.metric for column in columns))
    text += f" ({', '.join(scaled)} x 100)" if scaled else ""
    return text + (f"; lower is better for {', '.join(lower)}" if lower else "")
