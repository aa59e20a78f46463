"""An experiment is data: `experiments/NAME.yaml` describes a grid of cells and the table made from them."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtlora.base.errors import UserError, did_you_mean
from mtlora.base.files import visible_files
from mtlora.base.messages import misfit
from mtlora.base.paths import EXPERIMENTS
from mtlora.config.metrics import METRICS


@dataclass
class Entry:
    """One metric of a task, on one split."""

    split: str
    metric: str


@dataclass
class Column:
    """One column of the table."""

    task: str
    split: str
    metric: str
    label: str
    scale: float | None = None  # factor of the raw value; null: 100 for a share or a correlation, else 1
    digits: int = 2  # after the decimal point
    beside: Entry | None = None  # a second score in the same cell; in the average the pair counts as its mean


@dataclass
class Headline:
    """The score that verdicts compare, on the table's scale."""

    task: str
    split: str
    metric: str
    margin: float  # smaller differences between two methods do not matter in practice


@dataclass
class Convention:
    """The convention of published tables; shown beside our numbers, never mixed with them."""

    selection: str  # last | best epoch
    statistic: str  # mean | median over seeds
    source: str


@dataclass
class Claim:
    """A published difference of the headline score, MTLoRA minus LoRA, for a model in the profile `paper`."""

    model: str
    difference: float
    source: str


@dataclass
class Experiment:
    """The schema of `experiments/*.yaml`."""

    name: str
    suite: str
    title: str
    axes: dict[str, list[Any]]  # override key -> values; the first key is the outermost loop
    profiles: dict[str, dict[str, list[Any]]]  # profile -> axes that differ there
    columns: list[Column]
    headline: Headline
    selection: str = "last"  # last | best epoch
    average: bool = True  # whether the last column is the mean of the others
    failures: str = "block"  # a run that diverged: block the verdict | majority: it counts as the majority answer
    ablation: bool = False  # it varies one setting of another table: the report gives no verdict
    exclude: list[dict[str, Any]] = field(default_factory=list)  # combinations of axis values that are left out
    contrasts: list[str] = field(default_factory=list)  # swept keys: each value is also compared with the first one
    controls: dict[str, list[str]] = field(default_factory=dict)  # method -> methods that it is also compared with
    convention: Convention | None = None
    claims: list[Claim] = field(default_factory=list)

    def axes_of(self, profile: str) -> dict[str, list[Any]]:
        """Return the axes of the grid in a profile."""
        return {**self.axes, **self.profiles[profile]}


def load_experiment(name: str) -> Experiment:
    """Read and check `experiments/NAME.yaml`.

    Raises:
        UserError: there is no such experiment, or its file has an unknown key or a wrong type.
    """
    path = EXPERIMENTS / f"{name}.yaml"
    if not path.is_file():
        known = [p.stem for p in visible_files(EXPERIMENTS, "*.yaml")]
        near = did_you_mean(name, known)
        raise UserError(f"there is no experiment {name}: choose one of {', '.join(known)}{near}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Experiment), OmegaConf.load(path), {"name": name})
        experiment: Experiment = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {error.full_key}: {misfit(error)}") from None
    for key, allowed in (("selection", ("last", "best")), ("failures", ("block", "majority"))):
        if (value := getattr(experiment, key)) not in allowed:
            raise UserError(f"{path}: {key}: {value} is not known: choose one of {', '.join(allowed)}")
    metric = METRICS.get(experiment.headline.metric)  # none for an average
    if metric is not None and not metric.higher_is_better:
        raise UserError(f"{path}: headline: lower is better for {experiment.headline.metric}: name another metric")
    return experiment
