"""A cell: the composed configuration of a run, with its identity and its folder.

The identity (`config_sha`) covers every value that can change a metric, and the content of the data and the weights. It leaves
out folders, tracking, and the number of processes or threads.
"""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from mtlora.base.errors import UserError
from mtlora.base.hashing import digest, file_sha256
from mtlora.base.paths import CONF
from mtlora.config.checks import to_run_config
from mtlora.config.metrics import METRIC_VERSION
from mtlora.config.schema import RunConfig, transform_name
from mtlora.data.sources import fingerprint

PROTOCOL = 3  # raised when our own code changes what the same configuration computes

# The files of a local model folder that from_pretrained reads.
SNAPSHOT_FILES = (
    "*config.json",
    "token*.json",
    "*tokens*.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.safetensors",
    "*.bin",
)

# Keys that cannot change a metric, or whose content is part of the identity as a hash.
NOT_IDENTITY: tuple[str, ...] = (
    "results",
    "tracking",
    "compute",
    "recipe",
    "profile",
    "data.root",
    "data.subset",
    "task.hub",
    "task.local",
    "task.sizes",
    "task.mean_tokens",
    "model.path",
    "model.hub",
    "model.revision",
    "model.package",
    "model.folder",
    "model.gguf",
    "model.install",
    "model.source",
    "model.pretrained_config",
    "model.weights_sha256",
    "model.target_sets",
    "model.parameters",
    "decode.batch_size",
    "train.log_every",
    "train.checkpoint_seconds",
)


def metric_values(config: dict[str, Any]) -> dict[str, Any]:
    """Remove the values in `NOT_IDENTITY` from a configuration, in place, and return it."""
    for key in NOT_IDENTITY:
        *path, last = key.split(".")
        node = config
        for part in path:
            node = node[part]
        node.pop(last, None)  # an older record may lack the key
    return config


@dataclass(frozen=True)
class Cell:
    """The configuration of one run, and `parent`, the run whose adapter it starts from."""

    config: RunConfig
    overrides: tuple[str, ...]
    parent: "Cell | None" = None

    @cached_property
    def sha(self) -> str:
        """The hexadecimal sha256 of the identity."""
        return digest(self.identity)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Every value that can change a metric."""
        values = metric_values(asdict(self.config))
        values["protocol"] = [PROTOCOL, METRIC_VERSION]
        values["target_modules"] = asdict(self.config.model.target_sets[self.config.targets])
        values["data_content"] = fingerprint(self.config.task, self.config.data)
        values["model_content"] = model_content(self.config)
        try:
            values["parent"] = self.parent.sha if self.parent else None
        except UserError as error:
            raise UserError(
                f"init_from={self.config.init_from}, whose run comes first (or init_from=none): {error}"
            ) from None
        return values

    @property
    def label(self) -> str:
        """Method, rank and target set: `shim-r8-qv`."""
        return f"{transform_name(self.config)}-r{self.config.adapter.r}-{self.config.targets}"

    @property
    def run_id(self) -> str:
        """A readable name without spaces, unique by the first 8 digits of the sha."""
        c = self.config
        return f"{c.task.suite}-{c.task.name}-{c.model.name}-{self.label}-seed{c.seed}-{self.sha[:8]}"

    @property
    def lock(self) -> Path:
        """The file that a process locks while it trains this cell."""
        return Path(self.config.results) / "locks" / self.sha

    @property
    def folder(self) -> Path:
        """The folder of the run's record."""
        c = self.config
        place = Path(c.results) / "runs" / c.task.suite / c.task.name / c.model.name
        return place / self.label / f"seed{c.seed}-{self.sha[:8]}"


def compose_cell(overrides: Sequence[str]) -> Cell:
    """Compose the cell that `python -m mtlora.train OVERRIDES` would run.

    Raises:
        UserError, hydra.errors.ConfigCompositionException: an unknown key, option, type or value.
    """
    # Hydra is initialised already when a parent is composed inside a job, and a second initialisation is an error.
    ready = GlobalHydra.instance().is_initialized()
    with nullcontext() if ready else initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides=list(overrides))
    return cell_of(to_run_config(composed), overrides)


def with_seed(cell: Cell, seed: int) -> Cell:
    """Return the same cell with another seed, a hundred times faster than composing it.

    No value of the cell may be an interpolation of the seed, such as `results=out/${seed}`.
    """
    overrides = tuple(f"{o.partition('=')[0]}={seed}" if override_key(o) == "seed" else o for o in cell.overrides)
    parent = None if cell.parent is None else with_seed(cell.parent, seed)
    return Cell(replace(cell.config, seed=seed), overrides, parent)


def cell_of(config: RunConfig, overrides: Sequence[str]) -> Cell:
    """Wrap a checked configuration, composing the parent that `init_from` names."""
    if config.init_from == "none":
        return Cell(config, tuple(overrides))
    if config.init_from == config.task.name:
        raise UserError(f"init_from={config.init_from} is the task itself: name another task, or none")
    kept = [o for o in overrides if override_key(o) not in ("task", "init_from", "recipe")]
    return Cell(config, tuple(overrides), _parent((*kept, f"task={config.init_from}", "init_from=none")))


@lru_cache(maxsize=4096)
def _parent(overrides: tuple[str, ...]) -> Cell:
    return compose_cell(overrides)  # cached, because several tasks start from the same parent


@lru_cache(maxsize=4096)
def override_key(override: str) -> str:
    """Return the key that a command-line override sets."""
    return str(OverridesParser.create().parse_override(override).key_or_group)


def model_content(config: RunConfig) -> str:
    """Return an identifier of the weights: a pinned revision, a checksum, or (for a local folder) a hash of its files."""
    model = config.model
    if model.path is not None:
        return folder_sha256(Path(model.path))
    if model.source == "hub":
        return f"{model.hub}@{model.revision}"
    if model.source == "package":
        return str(model.weights_sha256)
    return "random"


def folder_sha256(folder: Path) -> str:
    """Hash the names and contents of the configuration, tokenizer and weight files of a local model folder.

    Raises:
        UserError: the folder has no config.json.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"model.path={folder} holds no config.json: name a folder written by save_pretrained, or a snapshot"
        )
    files = sorted(file for pattern in SNAPSHOT_FILES for file in folder.glob(pattern))
    named = (file.name.encode() + b"\0" + bytes.fromhex(file_sha256(file)) for file in files)
    return hashlib.sha256(b"".join(named)).hexdigest()
