"""A cell: the composed configuration of a run, with its identity and its folder.

The identity (`config_sha`) covers every value that can change a metric, and the content of the data and the weights. It leaves
out folders, tracking, and the number of processes or threads.
"""

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
from mtlora.base.hashing import digest
from mtlora.base.paths import CONF
from mtlora.config.checks import to_run_config, validate
from mtlora.config.metrics import METRIC_VERSION
from mtlora.config.schema import RunConfig, TaskConfig
from mtlora.data.sources import TUNE, fingerprint, split_fingerprint
from mtlora.plan.model_files import model_content
from mtlora.plan.tuning import Choice, check_seed, choice_of

TRAINING_VERSION = 4  # raised when our own code changes what the same configuration computes

# Keys that cannot change a metric, or whose content is part of the identity as a hash.
NOT_IDENTITY: tuple[str, ...] = (
    "results",
    "tracking",
    "compute",
    "recipe",
    "profile",
    "protocol",
    "tuning",
    "tuned_choice",
    "adapter.label",
    "adapter.rate",
    "train.lr_multiplier",
    "train.parent_lr_multiplier",
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


# Keys that are left out where they are null: they are younger than many records, whose identity has to stay.
OPTIONAL = ("model.quantization",)


def metric_values(config: dict[str, Any]) -> dict[str, Any]:
    """Reduce a configuration to the values that can change a metric, in place, and return it.

    The learning rate becomes the run's own, so a method whose tuned factor is 1 has the same runs as without tuning.
    """
    adapter, train = config["adapter"], config["train"]
    train["learning_rate"] *= train.get("lr_multiplier", 1.0) * adapter.get("rate", 1.0)
    for key in (*NOT_IDENTITY, *OPTIONAL):
        *path, last = key.split(".")
        node = config
        for part in path:
            node = node[part]
        if key in NOT_IDENTITY or node.get(last) is None:
            node.pop(last, None)  # an older record may lack the key
    return config


@dataclass(frozen=True, eq=False)
class Archive:
    """The finished runs of a study: what their records say about data, weights and code is taken as it is.

    So tables can be made from records alone, without the data and after the code has changed.
    """

    runs: dict[str, str]  # digest of the `metric_values` of a configuration -> config_sha


@dataclass(frozen=True)
class Cell:
    """The configuration of one run, and `parent`, the run whose adapter it starts from."""

    config: RunConfig
    overrides: tuple[str, ...]
    parent: "Cell | None" = None
    archive: Archive | None = None

    @cached_property
    def sha(self) -> str:
        """The hexadecimal sha256 of the identity; in an archive that of the run with this configuration."""
        if self.archive is not None:
            configuration = self.configuration
            return self.archive.runs.get(configuration, configuration)
        return digest(self.identity)

    @cached_property
    def configuration(self) -> str:
        """The digest of the configuration alone, without the content of data and weights."""
        return digest(metric_values(asdict(self.config)))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Every value that can change a metric."""
        values = metric_values(asdict(self.config))
        values["versions"] = [TRAINING_VERSION, METRIC_VERSION]
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

    @cached_property
    def basis(self) -> str:
        """The hash of all that the choice of a learning rate depends on: neither the seed nor the evaluation splits."""
        return digest(self._basis | {"parent": self.parent.basis if self.parent else None})

    @cached_property
    def basis_parts(self) -> dict[str, str]:
        """A hash of each part of what `basis` covers, to tell which part of a choice does not fit: see `tuning.PARTS`."""
        names = {"data": ("training_rows",), "weights": ("model_content",), "code": ("versions",)}
        others = {key: value for key, value in self._basis.items() if (key,) not in names.values()}
        parts = {"settings": others} | {part: {key: self._basis[key] for key in keys} for part, keys in names.items()}
        above = self.parent.basis_parts if self.parent else {}
        return {part: digest([value, above.get(part)])[:16] for part, value in parts.items()}

    @cached_property
    def _basis(self) -> dict[str, Any]:
        config = self.config
        values = dict(self.identity)
        for name in ("seed", "decode", "data_content"):
            del values[name]
        values["data"] = {name: value for name, value in values["data"].items() if name != "split"}
        values["task"] = {name: value for name, value in values["task"].items() if name != "metrics"}
        values["train"] = values["train"] | {"learning_rate": config.train.learning_rate * config.adapter.rate}
        values["training_rows"] = split_fingerprint(config.task, config.data, "train")
        del values["parent"]
        return values

    @property
    def choice(self) -> Choice:
        """The tuned learning rate.

        Raises:
            UserError: see `choice_of`.
        """
        if self.archive is not None:
            return choice_of(self.config, None, overrides=self.overrides)
        return choice_of(self.config, self.basis, self.basis_parts)

    @cached_property
    def product(self) -> dict[str, str]:
        """The overrides as key -> value: the cell's place in its grid."""
        return {override_key(override): override.partition("=")[2] for override in self.overrides}

    @property
    def label(self) -> str:
        """Method, rank and target set: `shim-r8-qv`."""
        return f"{self.config.adapter.method}-r{self.config.adapter.r}-{self.config.targets}"

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


def compose_cell(overrides: Sequence[str], archive: Archive | None = None) -> Cell:
    """Compose the cell that `python -m mtlora.train OVERRIDES` would run.

    Raises:
        UserError, hydra.errors.ConfigCompositionException: an unknown key, option, type or value.
    """
    # Hydra is initialised already when a parent is composed inside a job, and a second initialisation is an error.
    ready = GlobalHydra.instance().is_initialized()
    with nullcontext() if ready else initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides=list(overrides))
    return cell_of(to_run_config(composed), overrides, archive)


def with_seed(cell: Cell, seed: int) -> Cell:
    """Return the same cell with another seed, a hundred times faster than composing it.

    No value of the cell may be an interpolation of the seed, such as `results=out/${seed}`.

    Raises:
        UserError: `protocol=tuned`, and the learning rates were tuned with this seed.
    """
    overrides = tuple(f"{o.partition('=')[0]}={seed}" if override_key(o) == "seed" else o for o in cell.overrides)
    parent = None if cell.parent is None else with_seed(cell.parent, seed)
    sibling = Cell(replace(cell.config, seed=seed), overrides, parent, cell.archive)
    check_seed(sibling.config)
    return sibling


def with_multiplier(cell: Cell, multiplier: float, parent_multiplier: float | None = None) -> Cell:
    """Return the same cell with another factor of the learning rate, and another one for the run that it starts from."""
    given = {"train.lr_multiplier": multiplier}
    parent = cell.parent
    if parent is not None and parent_multiplier is not None:
        given["train.parent_lr_multiplier"] = parent_multiplier
        parent = with_multiplier(parent, parent_multiplier)
    kept = [override for override in cell.overrides if override_key(override) not in given]
    train = replace(cell.config.train, lr_multiplier=multiplier, parent_lr_multiplier=parent_multiplier)
    overrides = (*kept, *(f"{key}={value!r}" for key, value in given.items()))
    return Cell(replace(cell.config, train=train), overrides, parent, cell.archive)


def cell_of(config: RunConfig, overrides: Sequence[str], archive: Archive | None = None) -> Cell:
    """Wrap a checked configuration: settle what the protocol and the split decide, and compose the parent of `init_from`.

    Raises:
        UserError: `init_from` names the task itself, or `protocol=tuned` has no tuned learning rate for this run.
    """
    step = config.adapter.step
    if step == "auto":
        step = "published" if config.protocol == "published" else "matched"
    # Where T starts at I both steps are the same, and so are the runs.
    config = replace(config, adapter=replace(config.adapter, step=step if config.adapter.changes_step else "published"))
    validate(config)
    if config.data.split == "tune":
        config = replace(config, task=replace(config.task, metrics=_tuning_metrics(config.task)))
    parent = None if config.init_from == "none" else _parent(_parent_overrides(config, overrides), archive)
    cell = Cell(config, tuple(overrides), parent, archive)
    if config.protocol == "tuned":
        if config.train.lr_multiplier != 1.0:
            raise UserError("train.lr_multiplier is chosen by protocol=tuned: leave it out, or use protocol=matched")
        choice = cell.choice
        multiplier = choice.multiplier if config.tuned_choice == "best" else choice.second
        cell = replace(cell, config=replace(config, train=replace(config.train, lr_multiplier=multiplier)))
    return cell


def _tuning_metrics(task: TaskConfig) -> dict[str, list[str]]:
    """Return the metrics of a run for tuning, which reads neither GLUE's development set nor a test set."""
    if task.kind == "generation":
        return {"validation": ["loss"]}
    return {TUNE: next(iter(task.metrics.values()))}


def _parent_overrides(config: RunConfig, overrides: Sequence[str]) -> tuple[str, ...]:
    if config.init_from == config.task.name:
        raise UserError(f"init_from={config.init_from} is the task itself: name another task, or none")
    other = {"task", "init_from", "recipe", "train.parent_lr_multiplier", "tuned_choice"}
    own = []
    if config.train.parent_lr_multiplier is not None:
        other.add("train.lr_multiplier")
        own = [f"train.lr_multiplier={config.train.parent_lr_multiplier}"]
    kept = [override for override in overrides if override_key(override) not in other]
    return (*kept, *own, f"task={config.init_from}", "init_from=none")


@lru_cache(maxsize=4096)
def _parent(overrides: tuple[str, ...], archive: Archive | None) -> Cell:
    return compose_cell(overrides, archive)  # cached, because several tasks start from the same parent


@lru_cache(maxsize=4096)
def override_key(override: str) -> str:
    """Return the key that a command-line override sets."""
    return str(OverridesParser.create().parse_override(override).key_or_group)
