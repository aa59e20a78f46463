"""An experiment is data: `experiments/NAME.yaml` describes a grid of cells and the table made from them."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtlora.base.errors import UserError
from mtlora.base.paths import EXPERIMENTS


@dataclass
class Entry:
    """One measured figure of a task."""

    split: str
    metric: str


@dataclass
class Column:
    """One column of the table."""

    task: str
    split: str
    metric: str
    label: str
    scale: float | None = None  # of the raw value in tables; null: 100 for a share or a correlation, else 1
    digits: int = 2  # after the decimal point
    beside: Entry | None = None  # a second figure in the same cell; in the average the pair counts as its mean


@dataclass
class Headline:
    """The one figure that verdicts are about, on the table's scale, higher is better."""

    task: str
    split: str
    metric: str
    margin: float  # two methods that differ by less than this are the same for practical purposes


@dataclass
class Convention:
    """How the literature reports this table; shown beside ours, never mixed with it."""

    selection: str  # last | best epoch
    statistic: str  # mean | median over seeds
    source: str


@dataclass
class Claim:
    """A published advantage of MTLoRA over LoRA: a difference of the headline figure of a model in the profile `paper`."""

    model: str
    difference: float
    source: str


@dataclass
class Experiment:
    """The schema of `experiments/*.yaml`."""

    name: str
    suite: str
    title: str
    axes: dict[str, list[Any]]  # override key -> values; the first axis is the outermost loop
    profiles: dict[str, dict[str, list[Any]]]  # profile -> axes that differ there
    columns: list[Column]
    headline: Headline
    selection: str = "last"  # last | best epoch
    average: bool = True  # a last column with the mean over the others
    ablation: bool = False  # it repeats runs of another table to vary one thing: no verdict of its own in the report
    exclude: list[dict[str, Any]] = field(default_factory=list)  # combinations of axis values that are not run
    contrasts: list[str] = field(default_factory=list)  # swept keys whose first value each method is compared with too
    convention: Convention | None = None
    claims: list[Claim] = field(default_factory=list)


def load_experiment(name: str) -> Experiment:
    """Read and check `experiments/NAME.yaml`.

    Raises:
        UserError: there is no such experiment, or its file has an unknown key or a wrong type.
    """
    path = EXPERIMENTS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in EXPERIMENTS.glob("*.yaml")))
        raise UserError(f"there is no experiment {name}: choose one of {known}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Experiment), OmegaConf.load(path), {"name": name})
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{path}: {error.full_key}: {reason}") from None
