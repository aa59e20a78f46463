"""The records of a study as a data set: every record, a flat file of their metrics, the tables, and a data-set card."""

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import DatasetCard, DatasetCardData

from mtlora.base.errors import UserError
from mtlora.base.files import read_text, readable, write_jsonl, write_text
from mtlora.base.messages import as_variable
from mtlora.publish.portable import portable
from mtlora.records.page import markdown
from mtlora.records.predictions import numbers_only
from mtlora.records.record import PREDICTIONS, RunRecord
from mtlora.report.verdicts import answer
from mtlora.tables.command import RECORDS, load, parser, split_by_runs
from mtlora.tables.evidence import not_a_record, read_records
from mtlora.tables.view import View
from mtlora.tables.write import write_tables

TEMPLATE = Path(__file__).parent / "data_card.md"
METRICS = "metrics.csv"
RUN_KEYS = (
    "run_id",
    "config_sha",
    "suite",
    "task",
    "model",
    "transform",
    "rank",
    "targets",
    "seed",
    "profile",
    "protocol",
)
PARTS_OF_A_STUDY = ("figures/[!.]*.png", "tuned/[!.]*.yaml", "runs/*/[!.]*.jsonl.gz")  # besides records and README
METRIC_KEYS = ("name", "split", "selection", "value", "higher_is_better")
PARTS = (("effective", "learning_rate"), ("effective", "alpha"), ("parameters", "adapter"), ("cost", "train_seconds"))


def write_study(study: Path, out: Path, name: str, licence: str, overrides: Sequence[str]) -> None:
    """Write the records and the tables of a study into an empty folder.

    Args:
        study: a folder with a `records.jsonl`.
        out: the folder to write; it can be read as a study, too.
        name: the repository or folder that the card's code loads.
        licence: as the hub names it.
        overrides: those that the study's tables need, where its records do not say them.

    Raises:
        UserError: a record cannot be read, or the records make no table.
    """
    records = whole_records(study / RECORDS)
    rows = [portable(record) for record in records]
    write_jsonl(out / RECORDS, rows)
    write_text(out / METRICS, metrics_frame(rows).to_csv(index=False))
    readme = copy_rest(study, out)
    keys = markdown(RunRecord.json_schema())
    write_text(out / "records.md", keys)
    views = study_views(out, overrides)
    for view in views:
        write_tables(view, out / "tables")
    found = answer(views)
    title = match[1] if (match := re.match(r"# (.+)", readme)) else study.resolve().name
    data = DatasetCardData(
        pretty_name=title,
        license=licence,
        tags=["mtlora", "lora", "peft", "arxiv:2403.07440"],
        size_categories="n<1K" if len(records) < 1000 else "1K<n<10K",
        configs=[{"config_name": "metrics", "data_files": METRICS}],
    )
    DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        name=name,
        licence=licence,
        verdict=[found.short, found.open, found.certain],
        counts={key: sorted({str(row[key]) for row in rows}) for key in ("model", "task", "transform", "protocol")},
        number=len(rows),
        diverged=sum(record.diverged for record in records),
        columns=columns(keys),
        tables=sorted(path.name for path in (out / "tables").glob("*.md")),
        command=shlex.join(["make", "tables", *map(as_variable, overrides), "RUNS=DIR"]),
        study=bool(readme),
        tuned=(out / "tuned").is_dir(),
        runs=(out / "runs").is_dir(),
    ).save(out / "README.md")


def copy_rest(study: Path, out: Path) -> str:
    """Copy the figures, the tuning files, and the geometry of T and the predictions of the runs; return the study's README."""
    for path in sorted(path for part in PARTS_OF_A_STUDY for path in study.glob(part)):
        if path.name == f"{PREDICTIONS}.gz":
            list(numbers_only(path))  # refuses a text
        target = out / path.relative_to(study)
        target.parent.mkdir(parents=True, exist_ok=True)
        with readable(path):
            shutil.copyfile(path, target)
    readme = read_text(study / "README.md") if (study / "README.md").is_file() else ""
    if readme:
        write_text(out / "study.md", readme)
    return readme


def whole_records(path: Path) -> list[RunRecord]:
    """Read the records of a study, one a line.

    Raises:
        UserError: a line is not a record, or of a run that has not ended; or there is none.
    """
    records = []
    for place, _, record in read_records(path):
        if isinstance(record, Exception):
            raise not_a_record(place, record)
        if record.status != "success" and not record.diverged:
            raise UserError(f"{place}: {record.run_id} is not finished ({record.status}): remove the line")
        records.append(record)
    if not records:
        raise UserError(f"{path} is empty: `python -m mtlora.records collect RUNS` writes such a file")
    return records


def metrics_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return one row for each metric of each run, with the keys that tell runs apart; a run that diverged has none."""
    frame = pd.json_normalize(list(rows), "metrics", [*RUN_KEYS, *map(list, PARTS)], errors="ignore")
    return frame.reindex(columns=[*RUN_KEYS, *METRIC_KEYS, *map(".".join, PARTS)])


def columns(keys: str) -> list[str]:
    """Return the rows of the page about records, `docs/records.md`, that describe the columns of the flat file."""
    described = {match[1]: line for line in keys.split("\n") if (match := re.match(r"\| `(.+?)`", line))}
    lines = [described[key] for key in RUN_KEYS]
    lines += [described[f"metrics[].{key}"].replace("metrics[].", "", 1) for key in METRIC_KEYS]
    return lines + [described[".".join(part)] for part in PARTS]


def study_views(study: Path, overrides: Sequence[str]) -> list[View]:
    """Return the experiments that the records of a study belong to.

    Raises:
        UserError: none has a finished run among them.
    """
    loaded = load(parser("mtlora.publish", "").parse_args(["all", *overrides, "--runs", str(study)]))
    views = [view for view in split_by_runs(loaded)[0] if view.has_results]
    if not views:
        raise UserError(
            "these records make no table: add the overrides with which the study was made, as in the command that makes "
            "its tables, such as train.epochs=3"
        )
    return views
