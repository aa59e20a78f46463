"""The records behind a table: all are read from disk; unusable ones are named and never enter a table."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from mtlora.base.errors import UserError
from mtlora.base.hashing import digest
from mtlora.config.schema import RunConfig
from mtlora.plan.cell import Archive, Cell, metric_values
from mtlora.plan.grid import Plan
from mtlora.records.record import RunRecord, find_records
from mtlora.records.schema import Git, Metric, Selection

log = logging.getLogger(__name__)

CONTENT = {
    "data_content": "other data",
    "versions": "another version of the training or metric code",
    "model_content": "other weights",
    "parent": "another run as its start",
}


@dataclass
class Evidence:
    """All readable records of a runs folder or a JSON-lines file."""

    records: dict[str, RunRecord] = field(default_factory=dict)  # by config_sha; `config` is dropped to save memory
    folders: dict[str, Path] = field(default_factory=dict)  # config_sha -> run folder; of a file: runs/RUN_ID beside it
    configurations: dict[str, list[str]] = field(default_factory=dict)  # digest of the configuration -> its config_shas
    problems: list[str] = field(default_factory=list)  # a line for each record that could not be read
    unreadable: set[Path] = field(default_factory=set)  # the folders of such records


def load_evidence(runs: Path) -> Evidence:
    """Load every record of a runs folder or a JSON-lines file; unreadable ones become `problems`, and warnings.

    Raises:
        UserError: `runs` is a file in which nothing is a record.
    """
    evidence = Evidence()
    for origin, folder, content in _record_contents(runs):
        try:
            record = RunRecord.parse(content().decode("utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            reason = f"no JSON, cut short or edited ({error})" if isinstance(error, json.JSONDecodeError) else error
            advice = ": mtlora.reproduce trains the run again" if folder is not None else ""
            evidence.problems.append(f"{origin} is left out: {reason}{advice}")
            if folder is not None:
                evidence.unreadable.add(folder.resolve())
            continue
        if folder is None and (kept := runs.parent / "runs" / record.run_id).is_dir():
            folder = kept
        known = evidence.records.get(record.config_sha)
        if known is not None and known.status == record.status == "success" and known.metrics != record.metrics:
            evidence.problems.append(
                f"{origin} is left out: another record of the same run, {known.run_id}, has other metrics"
            )
        if known is None or known.status != "success":  # a failed attempt elsewhere hides no result
            evidence.records[record.config_sha] = record
            if folder is not None:
                evidence.folders[record.config_sha] = folder
        if known is None and (key := _configuration(record)):
            evidence.configurations.setdefault(key, []).append(record.config_sha)
        record.config = {}
    if not evidence.records and runs.is_file():
        raise UserError(f"{runs} holds no record: name a runs folder, or a file with one record.json a line")
    for line in evidence.problems:
        log.warning("%s", line)
    return evidence


def _record_contents(runs: Path) -> Iterator[tuple[str, Path | None, Callable[[], bytes]]]:
    if runs.is_file():
        with runs.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"{runs}:{number}", None, partial(bytes, line)
    elif runs.is_dir():
        for path in find_records(runs):
            yield str(path), path.parent, path.read_bytes


def archive(evidence: Evidence, runs: Path) -> Archive:
    """Return the runs of a records file, by their configuration.

    Raises:
        UserError: two finished runs have the same configuration, but other data, weights or code.
    """
    found = {}
    for configuration, shas in evidence.configurations.items():
        done = [sha for sha in shas if evidence.records[sha].status == "success"] or shas
        if len(done) > 1:
            first, second = (evidence.records[sha].run_id for sha in done[:2])
            raise UserError(
                f"{runs}: {first} and {second} have the same configuration with other data, weights or code: keep one"
            )
        found[configuration] = done[0]
    return Archive(found)


def _configuration(record: RunRecord) -> str | None:
    try:
        return digest(metric_values(with_defaults(record.config, RunConfig)))
    except (KeyError, TypeError, ValueError):
        return None  # written with another schema, so it is another configuration


def with_defaults(config: dict[str, Any], schema: type) -> dict[str, Any]:
    """Add the defaults of the keys that a record's configuration lacks because it is older than they are, and return it."""
    for key in fields(schema):
        if is_dataclass(key.type):
            with_defaults(config.setdefault(key.name, {}), key.type)  # type: ignore[arg-type]
        elif key.default is not MISSING:
            config.setdefault(key.name, key.default)
        elif key.default_factory is not MISSING:
            config.setdefault(key.name, key.default_factory())
    return config


def usable(plan: Plan, evidence: Evidence) -> dict[str, RunRecord]:
    """Return the finished records of a plan's cells, by config_sha, without the runs of `stale_code`."""
    stale = stale_code(plan, evidence)
    return {sha: record for sha, record in _finished(plan, evidence).items() if sha not in stale}


def _finished(plan: Plan, evidence: Evidence) -> dict[str, RunRecord]:
    found = ((cell, evidence.records.get(cell.sha)) for cell in plan.every)
    return {
        cell.sha: record
        for cell, record in found
        if record is not None and record.status == "success" and not _changed(cell, record)
    }


def diverged(plan: Plan, evidence: Evidence) -> dict[str, RunRecord]:
    """Return the records of a plan's cells whose run diverged, by config_sha; the same run would diverge again."""
    found = ((cell, evidence.records.get(cell.sha)) for cell in plan.every)
    return {
        cell.sha: record
        for cell, record in found
        if record is not None and record.status == "failed" and record.diverged and not _changed(cell, record)
    }


def majority_answers(records: Mapping[str, RunRecord]) -> dict[str, RunRecord]:
    """Return records of diverged runs with the scores of the majority answer; without those of data-to-text, which has none."""
    found = {}
    for sha, record in records.items():
        scores = [
            Metric(name=b["name"], split=b["split"], selection=selection, value=b["value"])
            for b in record.baselines
            for selection in get_args(Selection)
        ]
        if scores:
            found[sha] = replace(record, metrics=scores)
    return found


def _changed(cell: Cell, record: RunRecord) -> list[str]:
    """List the contents in which a record's provenance differs from a cell's identity; an archive is taken as it is."""
    if cell.archive is not None:
        return []
    theirs: dict[str, Any] = {**record.provenance}
    own = cell.identity
    return [text for name, text in CONTENT.items() if name in theirs and theirs[name] != own[name]]


def uncommitted(records: Collection[RunRecord]) -> int:
    """Count the runs from a checkout with uncommitted changes: their commit does not identify their code."""
    return sum(bool(_git(record).get("dirty")) for record in records)


def stale_code(plan: Plan, evidence: Evidence) -> dict[str, str]:
    """Return the finished runs with uncommitted code on another commit than most of the plan's runs: config_sha -> commit.

    A commit identifies the code only if the checkout is clean.
    """
    states = {sha: _git(record) for sha, record in _finished(plan, evidence).items()}
    counts = Counter(state.get("commit") for state in states.values())
    if len(counts) < 2:
        return {}
    usual = counts.most_common(1)[0][0]
    return {
        sha: str(state.get("commit"))
        for sha, state in states.items()
        if state.get("dirty") and state.get("commit") != usual
    }


def _git(record: RunRecord) -> Git:
    return record.provenance.get("git") or {}


def touched(plan: Plan, evidence: Evidence) -> set[str]:
    """Return the config_shas of a plan's runs that were started or left out; without any, the experiment has not been run."""
    return {cell.sha for cell in plan.cells if cell.sha in evidence.records or _twins(cell, evidence)}


def problems(plan: Plan, evidence: Evidence) -> list[str]:
    """Return a line for each run that a plan's tables lack: failed, killed, missing, or left out for the given reason."""
    lines = []
    missing: Counter[str] = Counter()
    for cell in plan.every:
        record = evidence.records.get(cell.sha)
        if record is None and cell.folder.resolve() in evidence.unreadable:
            continue  # `load_evidence` reported it
        if record is None:
            twins = _twins(cell, evidence)
            lines += twins
            if not twins:
                missing[f"{cell.config.task.name} {cell.label} (protocol {cell.config.protocol})"] += 1
        elif record.status != "success":
            lines.append(f"{record.run_id} {_outcome(record)}")
        elif changed := _changed(cell, record):
            lines.append(
                f"{record.run_id} is left out: its provenance names {' and '.join(changed)} than its config_sha, "
                "so it was edited: delete its folder to train the run again"
            )
        elif lacking := _lacking(plan, record):
            lines.append(f"{record.run_id} has no {lacking}: the same command scores it again")
    for name, count in missing.items():
        lines.append(f"{name}: {count} run{'s' if count > 1 else ''} not made yet")
    for sha, commit in stale_code(plan, evidence).items():
        lines.append(
            f"{evidence.records[sha].run_id} is left out: trained with uncommitted code on commit {commit[:10]}, while "
            "most runs of the table are of another commit: delete its folder to train it again"
        )
    return lines


def _outcome(record: RunRecord) -> str:
    if record.status == "running":
        return "is running, or was killed: run the same command again to continue"
    return f"{record.status}: {record.error or 'no reason is known'}"


def _twins(cell: Cell, evidence: Evidence) -> list[str]:
    """Return a line for each finished record of the same configuration with other data, weights or code."""
    key = cell.configuration
    lines = []
    for sha in evidence.configurations.get(key, []):
        record = evidence.records[sha]
        if sha != cell.sha and record.status == "success":
            changed = " and ".join(_changed(cell, record)) or "other target modules"
            lines.append(f"{record.run_id} is left out: the same configuration with {changed}")
    return lines


def _lacking(plan: Plan, record: RunRecord) -> str:
    wanted = [(c.metric, c.split) for c in plan.experiment.columns if c.task == record.task]
    return ", ".join(
        f"{metric} on {split}"
        for metric, split in wanted
        if record.metric(metric, split, plan.experiment.selection) is None
    )
