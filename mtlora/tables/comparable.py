"""Which runs may stand beside published numbers."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from mtlora.config.schema import ModelConfig, RunConfig
from mtlora.plan.cell import Cell, override_key
from mtlora.records.record import RunRecord

# Overrides that do not change a paper's recipe (rank and targets must be equal to the published row's anyway).
PLACES = {"task", "model", "transform", "rank", "targets", "seed", "profile", "results", "tracking", "model.path"}
PLACES |= {
    "data.source",
    "data.root",
    "compute.device",
    "compute.threads",
    "compute.cpu_gemm",
    "tracking.mode",
    "tracking.project",
    "tracking.entity",
    "protocol",
}


def comparable(cell: Cell, record: RunRecord | None) -> bool:
    """Return whether a cell has the data, the model and the recipe of the published numbers; `record` is None before its run.

    The hub's data and weights are pinned, and an override of a pin makes a run incomparable. A local data folder must have
    the official numbers of rows, a local model folder the same architecture; its weights are not compared.
    """
    config = cell.config
    if (
        (config.profile, config.protocol) != ("paper", "published")
        or config.data.source == "builtin"
        or config.data.subset
    ):
        return False
    if any(override_key(override) not in PLACES for override in cell.overrides):
        return False
    return _is_named_model(config.model) and (record is None or _has_official_rows(config, record))


def _has_official_rows(config: RunConfig, record: RunRecord) -> bool:
    rows = record.provenance.get("rows")
    if not isinstance(rows, dict):  # an old record without counts: only the hub's pinned data are certain
        return config.data.source == "hub"
    return all(config.task.sizes.get(split) == count for split, count in rows.items())


def _is_named_model(model: ModelConfig) -> bool:
    if model.path is None:
        return True
    return bool(model.pretrained_config) and model.pretrained_config.items() <= _config_json(model.path).items()


@lru_cache(maxsize=64)
def _config_json(folder: str) -> dict[str, Any]:
    try:
        return dict(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")))
    except (TypeError, ValueError):  # no JSON object
        return {}
