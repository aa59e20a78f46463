"""RunRecord: one JSON file per run, written atomically, so that a reader never meets half a record."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mtlora.base.errors import UserError
from mtlora.base.files import write_text
from mtlora.config.metrics import METRICS

SCHEMA_VERSION = 1
RECORD = "record.json"
GEOMETRY = "geometry.jsonl"  # beside it: summaries of T by epoch
STATUSES = ("running", "success", "failed", "interrupted")


@dataclass
class RunRecord:
    """Everything known about one run; the keys are those of `record.json`."""

    run_id: str
    config_sha: str
    suite: str
    task: str
    model: str
    transform: str
    rank: int
    seed: int
    targets: str
    profile: str
    config: dict[str, Any]
    overrides: list[str]
    status: str = "running"
    error: str | None = None
    low_resource: bool = False
    metrics: list[dict[str, Any]] = field(default_factory=list)  # name, split, selection, value, higher_is_better
    baselines: list[dict[str, Any]] = field(default_factory=list)  # name, split, value of the majority answer
    epochs: list[dict[str, Any]] = field(default_factory=list)  # epoch, step, train_loss, metrics by split
    parameters: dict[str, int] = field(default_factory=dict)  # adapter, head, total (all trainable or not)
    cost: dict[str, Any] = field(default_factory=dict)  # seconds, steps, tokens, tokens_per_second, peak_memory_bytes
    provenance: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def save(self, folder: Path) -> None:
        """Write `record.json` into the run's folder, all of it or nothing."""
        write_text(folder / RECORD, json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "RunRecord":
        """Read a record.

        Raises:
            UserError: the file is not a record of this schema version.
        """
        try:
            return cls.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is not a readable record ({error}): delete the run's folder to train it again"
            ) from None

    @classmethod
    def parse(cls, text: str) -> "RunRecord":
        """Read a record's JSON text; raises ValueError with the reason (not JSON, NaN, another schema version, a key)."""
        values = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        if (version := values.get("schema_version")) != SCHEMA_VERSION:
            raise ValueError(f"schema version {version}, this code reads {SCHEMA_VERSION}")
        if unknown := set(values) - {f.name for f in fields(cls)}:
            raise ValueError(f"unknown key {sorted(unknown)[0]}")
        if values.get("status") not in STATUSES:
            raise ValueError(f"unknown status {values.get('status')}")
        required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        if absent := [name for name in required if name not in values]:
            raise ValueError(f"no key {absent[0]}")
        record = cls(**values)
        record._check()
        return record

    def _check(self) -> None:
        """Raise ValueError for contents that a reader could stumble over."""
        for name in ("run_id", "config_sha", "suite", "task", "model", "transform", "targets", "profile"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is not a text")
        if not all(isinstance(number, int) for number in (self.rank, self.seed)):
            raise ValueError("rank or seed is not an integer")
        for part in ("config", "parameters", "cost", "provenance"):
            if not isinstance(getattr(self, part), dict):
                raise ValueError(f"{part} is not an object")
        if not all(is_number(value) for value in [*self.parameters.values(), *self.cost.values()]):
            raise ValueError("parameters or cost hold something that is not a finite number")
        git, packages = self.provenance.get("git") or {}, self.provenance.get("packages") or {}
        if not (isinstance(git, dict) and isinstance(packages, dict)):
            raise ValueError("git or packages of the provenance is not an object")
        if not (isinstance(git.get("commit"), str | None) and isinstance(git.get("dirty"), bool | None)):
            raise ValueError("the commit of the provenance is not a text, or `dirty` is neither true nor false")
        if not (isinstance(self.metrics, list) and isinstance(self.baselines, list) and isinstance(self.epochs, list)):
            raise ValueError("metrics, baselines or epochs is not a list")
        for entry in [*self.metrics, *self.baselines]:
            texts = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "split"))
            if not texts or not is_number(entry.get("value")):
                raise ValueError(f"a metric without a name, a split and a finite value: {str(entry)[:200]}")
        if any(not isinstance(e.get("selection"), str) or e["name"] not in METRICS for e in self.metrics):
            raise ValueError("a metric of unknown name or without selection")
        for entry in self.metrics:
            info = METRICS[entry["name"]]
            # rounding may exceed 1 by an ulp
            if not info.lowest - 1e-6 <= entry["value"] <= info.highest + 1e-6:
                limits = f"{info.lowest:g} to {info.highest:g}"
                raise ValueError(f"{entry['name']} on {entry['split']} is {entry['value']:g}, its range is {limits}")
        keys = [(entry["name"], entry["split"], entry["selection"]) for entry in self.metrics]
        if len(keys) > len(set(keys)):
            raise ValueError("the same metric twice")

    def metric(self, name: str, split: str, selection: str = "last") -> float | None:
        """Return one raw value, or None where the run has none."""
        for entry in self.metrics:
            if (entry["name"], entry["split"], entry["selection"]) == (name, split, selection):
                return float(entry["value"])
        return None


def is_number(value: Any) -> bool:
    """Tell whether a value from JSON is a finite number of ordinary size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that a record may hold")


def record_status(folder: Path) -> str | None:
    """Return the status of the run in a folder, None without a record; an unreadable record counts as failed."""
    try:
        return RunRecord.parse((folder / RECORD).read_text(encoding="utf-8")).status
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return "failed"


def find_records(runs: Path) -> Iterator[Path]:
    """Yield every record file below a runs folder, in a fixed order."""
    return iter(sorted(runs.rglob(RECORD)))
