"""RunRecord: one JSON file per run, written atomically, so that readers never see half a record."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, StrictBool, TypeAdapter, ValidationError, with_config

from mtlora.base.errors import UserError
from mtlora.base.files import visible_files, write_text
from mtlora.config.metrics import METRICS
from mtlora.records.schema import (
    STRICT,
    Baseline,
    Cost,
    Count,
    Effective,
    Epoch,
    Metric,
    Parameters,
    Provenance,
    RunStatus,
)

SCHEMA_VERSION = 1
RECORD = "record.json"
# Beside the record; a study keeps them compressed in its folder runs/RUN_ID.
GEOMETRY = "geometry.jsonl"  # summaries of T by epoch
PREDICTIONS = "predictions.jsonl"  # the answer to each item


def _in_range(metric: Metric) -> Metric:
    if metric["name"] not in METRICS:
        raise ValueError(f"{metric['name']} is not a known metric")
    info = METRICS[metric["name"]]
    if not info.lowest - 1e-6 <= metric["value"] <= info.highest + 1e-6:  # rounding may exceed 1 by an ulp
        limits = f"{info.lowest:g} to {info.highest:g}"
        raise ValueError(f"{metric['name']} on {metric['split']} is {metric['value']:g}, its range is {limits}")
    return metric


def _each_once(metrics: list[Metric]) -> list[Metric]:
    if len({(m["name"], m["split"], m["selection"]) for m in metrics}) < len(metrics):
        raise ValueError("the same metric twice")
    return metrics


Metrics = Annotated[list[Annotated[Metric, AfterValidator(_in_range)]], AfterValidator(_each_once)]


@with_config(STRICT)
@dataclass
class RunRecord:
    """Everything known about one run; the keys are those of `record.json`."""

    run_id: str
    """A readable name without spaces; its last part, 8 digits of the config_sha, makes it unique."""
    config_sha: str
    """The sha256 of every value that can change a metric, and of the content of the data and the weights."""
    suite: str
    """The suite of the task: `glue`, `dart`, `webnlg` or `e2e`."""
    task: str
    """The task, a file in `conf/task/`."""
    model: str
    """The pretrained model, a file in `conf/model/`."""
    transform: str
    """The method, a file in `conf/transform/`."""
    rank: Count
    """The rank r of the adapter."""
    seed: Count
    """The seed of all random streams."""
    targets: str
    """The name of the model's target set, the modules that are adapted."""
    profile: str
    """The profile: `mini`, `study` or `paper`."""
    config: dict[str, Any]
    """The composed configuration (`mtlora/config/schema.py`)."""
    overrides: list[str]
    """The command-line overrides that the configuration was composed with."""
    protocol: str = "published"
    """What the run holds equal between methods: see `docs/method.md`. One run may serve several protocols; this is its first."""
    status: RunStatus = "running"
    """The state of the run; it stays `running` if the process is killed."""
    error: str | None = None
    """The reason why a run failed or was interrupted."""
    diverged: StrictBool = False
    """Whether a run failed because its loss, gradient or predictions were not finite: the same run would fail again."""
    low_resource: StrictBool = False
    """Whether a split was read from a file that holds only a part of the official split."""
    metrics: Metrics = field(default_factory=list)
    """The scores that tables show."""
    baselines: list[Baseline] = field(default_factory=list)
    """The scores of the majority answer, one for each metric and split."""
    epochs: list[Epoch] = field(default_factory=list)
    """The evaluations, one for each epoch."""
    effective: Effective = field(default_factory=Effective)
    """The learning rate and the alpha that the run used."""
    parameters: Parameters = field(default_factory=Parameters)
    """Numbers of parameters."""
    cost: Cost = field(default_factory=Cost)
    """The resources that the run used."""
    provenance: Provenance = field(default_factory=Provenance)
    """The code, the software, the machine and the content that it computed with."""
    schema_version: int = SCHEMA_VERSION
    """The version of this schema."""

    def save(self, folder: Path) -> None:
        """Write `record.json` into the run's folder, atomically."""
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
        """Read the JSON text of a record.

        Raises:
            ValueError: it is not JSON, has NaN, another schema version, or a wrong key or value; the message is the reason.
        """
        values = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        if (version := values.get("schema_version")) != SCHEMA_VERSION:
            raise ValueError(f"schema version {version}, this code reads {SCHEMA_VERSION}")
        try:
            return _READER.validate_python(values)
        except ValidationError as error:
            raise ValueError(_reason(error)) from None

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of `record.json`."""
        schema = _READER.json_schema()
        return schema | {"required": list(schema["properties"])}  # `save` writes the keys with a default too

    def metric(self, name: str, split: str, selection: str = "last") -> float | None:
        """Return the raw value of a metric, or None if the record lacks it."""
        for entry in self.metrics:
            if (entry["name"], entry["split"], entry["selection"]) == (name, split, selection):
                return float(entry["value"])
        return None

    def shown_metrics(self) -> dict[tuple[str, str], dict[str, str]]:
        """Return (split, metric) -> the values, on its usual scale, of the last and best epoch and the majority answer."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        named = [(f"{entry['selection']} epoch", entry) for entry in self.metrics]
        for label, entry in [*named, *(("majority answer", answer) for answer in self.baselines)]:
            value = METRICS[entry["name"]].shown(entry["value"])
            found.setdefault((entry["split"], entry["name"]), {})[label] = value
        return found


_READER = TypeAdapter(RunRecord)


def _reason(error: ValidationError) -> str:
    """Return the first mistake in one line."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    match first["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"unknown key {key}"
        case "missing":
            return f"no key {key}"
        case "literal_error":
            return f"unknown {key} {first['input']}"
        case "finite_number":
            return f"{key} is not a finite value"
        case "value_error":
            return str(first["ctx"]["error"])
    return f"{key} is {str(first['input'])[:200]}: {first['msg']}"


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
    """Yield every record file below a runs folder, in a fixed order, without those in hidden folders."""
    return iter(visible_files(runs, RECORD))


def detail(folder: Path | None, name: str) -> Path | None:
    """Return the file `GEOMETRY` or `PREDICTIONS` of a run, compressed or not; None if the run has none, or no folder."""
    if folder is None:
        return None
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
