"""The records of a folder, as a study keeps them: one a line, and beside them the details that tables and figures read."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mtlora.base.errors import UserError
from mtlora.base.files import read_content, replacing
from mtlora.records.predictions import numbers_only
from mtlora.records.record import GEOMETRY, PREDICTIONS, RunRecord, detail, find_records


def collect(runs: Path) -> Iterator[str]:
    """Yield each finished record below a runs folder as one line of JSON, in the order of their run_ids.

    Raises:
        UserError: the folder holds no record, or one that cannot be read.
    """
    records = [RunRecord.load(path) for path in find_records(runs)]
    if not records:
        raise UserError(f"{runs} holds no record: name a folder such as results/runs")
    for record in sorted(records, key=lambda record: record.run_id):
        if record.status == "success" or record.diverged:
            yield json.dumps(asdict(record), allow_nan=False)


def keep_details(runs: Path, folder: Path) -> None:
    """Write to `folder`/RUN_ID what tables and figures read besides the records: the geometry of T, and predictions as numbers.

    Texts that a model wrote are left out, because their rows hold facts and references of the data.

    Raises:
        UserError: a row of a classification or regression run has more than numbers.
    """
    for path in find_records(runs):
        record = RunRecord.load(path)
        if record.status != "success":
            continue
        contents = {}
        if (geometry := detail(path.parent, GEOMETRY)) is not None:
            contents[GEOMETRY] = read_content(geometry)
        predictions = detail(path.parent, PREDICTIONS)
        if predictions is not None and record.config["task"]["kind"] != "generation":
            contents[PREDICTIONS] = "".join(json.dumps(row) + "\n" for row in numbers_only(predictions)).encode()
        for name, content in contents.items():
            with replacing(folder / record.run_id / f"{name}.gz", "choose a writable --details") as stream:
                stream.write(gzip.compress(content, mtime=0))  # without the time: the same file each time
