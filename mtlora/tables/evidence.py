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
    """Load every record of a runs folder or a JSON-lines file; unreadable ones of a folder become `problems`, and warnings.

    Raises:
        UserError: `runs` is a file that cannot be read, with a line that is no record, or without any.
    """
    evidence = Evidence()
    for origin, folder, record in read_records(runs):
        if isinstance(record, Exception):
            if folder is None:
                raise not_a_record(origin, record)
            evidence.problems.append(f"{origin} is left out: {_reason(record)}: mtlora.reproduce trains the run again")
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


def not_a_record(origin: str, error: Exception) -> UserError:
    """Return the error that a file of records has a line that is none, or cannot be read."""
    if isinstance(error, OSError):
        return UserError(f"{origin} cannot be read ({error.strerror}): correct its permissions, or name another file")
    return UserError(f"{origin} is no record ({_reason(error)}): restore the file")


def _reason(error: Exception) -> str:
    return f"no JSON, cut short or edited ({error})" if isinstance(error, json.JSONDecodeError) else str(error)


def read_records(runs: Path) -> Iterator[tuple[str, Path | None, RunRecord | Exception]]:
    """Yield each record of a runs folder or a JSON-lines file: its place, its folder if it has one, and why it is no record."""
    if runs.is_file():
        try:
            lines = runs.read_bytes().splitlines()
        except OSError as error:
            yield str(runs), None, error
            return
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{runs}:{number}", None, _parsed(partial(bytes, line))
    elif runs.is_dir():
        for path in find_records(runs):
            yield str(path), path.parent, _parsed(path.read_bytes)


def _parsed(content: Callable[[], bytes]) -> RunRecord | Exception:
    try:
        return RunRecord.parse(content().decode("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        return error


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


@dataclass
class Found:
    """The records of a plan's cells, sorted by whether they enter its tables."""

    records: dict[str, RunRecord] = field(default_factory=dict)  # the usable ones, by config_sha
    diverged: dict[str, RunRecord] = field(default_factory=dict)  # likewise; the same run would diverge again
    started: set[str] = field(default_factory=set)  # the config_shas of cells with any record, also of one left out
    problems: list[str] = field(default_factory=list)  # a line for each run that failed, is missing or is left out


def find(plan: Plan, evidence: Evidence) -> Found:
    """Sort the records of a plan's cells.

    A commit identifies the code only if the checkout is clean: a run with uncommitted code on another commit than most of the
    plan's runs is left out.
    """
    found = Found()
    missing: Counter[str] = Counter()
    for cell in plan.every:
        record = evidence.records.get(cell.sha)
        if record is None:
            twins = _twins(cell, evidence)
            if twins:
                found.started.add(cell.sha)
            if cell.folder.resolve() not in evidence.unreadable:  # `load_evidence` reported those
                found.problems += twins
                missing[f"{cell.config.task.name} {cell.label} (protocol {cell.config.protocol})"] += not twins
            continue
        found.started.add(cell.sha)
        if record.status != "success":
            found.problems.append(f"{record.run_id} {_outcome(record)}")
            if record.status == "failed" and record.diverged and not _changed(cell, record):
                found.diverged[cell.sha] = record
        elif changed := _changed(cell, record):
            found.problems.append(
                f"{record.run_id} is left out: its provenance names {' and '.join(changed)} than its config_sha, "
                "so it was edited: delete its folder to train the run again"
            )
        else:
            found.records[cell.sha] = record
            if lacking := _lacking(plan, record):
                found.problems.append(f"{record.run_id} has no {lacking}: the same command scores it again")
    found.started &= {cell.sha for cell in plan.cells}  # one that only confirms a choice may be of another table
    found.problems += [f"{name}: {n} run{'s' if n > 1 else ''} not made yet" for name, n in missing.items() if n]
    commits = Counter(_git(record).get("commit") for record in found.records.values())
    for sha, record in list(found.records.items()):
        git = _git(record)
        if git.get("dirty") and git.get("commit") != commits.most_common(1)[0][0]:
            del found.records[sha]
            found.problems.append(
                f"{record.run_id} is left out: trained with uncommitted code on commit {str(git.get('commit'))[:10]}, while "
                "most runs of the table are of another commit: delete its folder to train it again"
            )
    return found


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


def _git(record: RunRecord) -> Git:
    return record.provenance.get("git") or {}


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
