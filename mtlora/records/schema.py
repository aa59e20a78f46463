"""The parts of a record; the docstring below a key describes it in `docs/records.md`."""

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, StrictBool, with_config
from typing_extensions import TypedDict  # pydantic accepts `typing.TypedDict` from Python 3.12 on

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
RunStatus = Literal["running", "success", "failed", "interrupted"]
Selection = Literal["last", "best"]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


@with_config(STRICT)
class Metric(TypedDict):
    """One score of a finished run."""

    name: str
    """A metric of `mtlora/config/metrics.py`."""
    split: str
    """The evaluation split, or a part of it that is scored by itself, such as `test_S`."""
    selection: Selection
    """The epoch that was evaluated: the last one, or the one with the best value of the task's first metric."""
    value: Number
    """The raw value: shares from 0 to 1, correlations from -1 to 1, BLEU from 0 to 100."""
    higher_is_better: NotRequired[StrictBool]
    """Whether a higher value is a better one."""


@with_config(STRICT)
class Baseline(TypedDict):
    """The score of the majority answer."""

    name: str
    """A metric."""
    split: str
    """The evaluation split."""
    value: Number
    """The raw value if every answer is the most frequent class; 0 for correlations."""


@with_config(STRICT)
class Epoch(TypedDict):
    """The evaluation at the end of an epoch."""

    epoch: Count
    """The number of epochs done."""
    step: NotRequired[Count]
    """The number of optimizer steps done."""
    train_loss: NotRequired[Number]
    """The mean training loss of the epoch."""
    metrics: dict[str, dict[str, Number]]
    """The raw value of each metric by split; for generation tasks only the validation loss."""


@with_config(STRICT)
class Parameters(TypedDict, total=False):
    """Numbers of parameters."""

    adapter: Count
    """The number of trained parameters in the adapter."""
    head: Count
    """The number of trained parameters in the head."""
    total: Count
    """The number of parameters that the model holds while it trains, frozen ones included."""


@with_config(STRICT)
class Cost(TypedDict, total=False):
    """The resources that a run used; seconds add up over resumed attempts."""

    seconds: Number
    """Seconds of training and evaluation."""
    train_seconds: Number
    """Seconds of the optimizer steps alone."""
    steps: Count
    """The number of optimizer steps."""
    tokens: Count
    """The number of tokens trained on, without padding."""
    tokens_per_second: Number
    """`tokens` divided by `train_seconds`."""
    peak_memory_bytes: Count
    """The peak memory on the GPU if the run trained on one, else of the process."""
    decode_seconds: Number
    """Seconds of decoding the test split (generation tasks only)."""


@with_config(STRICT)
class Effective(TypedDict, total=False):
    """The values that the update and the optimizer used, after the protocol has changed those of the recipe."""

    learning_rate: Number
    """The peak learning rate."""
    alpha: Number
    """The alpha of dW = (alpha / r) B T A."""
    first_step: Number
    """The first update's size divided by LoRA's at one alpha; 1 for T = I and other methods. `matched` divides alpha by it."""


@with_config(STRICT)
class Git(TypedDict, total=False):
    """The state of the checkout."""

    commit: str | None
    """The commit; null outside a git checkout."""
    dirty: StrictBool | None
    """Whether code or configuration differed from the commit; null outside a git checkout."""


@with_config(STRICT)
class Cohort(TypedDict):
    """The runs that trained in lock-step with this one."""

    id: str
    """A hash of the members."""
    runs: Count
    """The number of members."""
    members: list[str]
    """Their run_ids, this one included."""


@with_config(STRICT)
class Provenance(TypedDict, total=False):
    """The code, the software, the machine and the content that a run computed with."""

    data_content: str
    """A hash of the content of the data: of the files, or of the commit on the hub."""
    data_commit: str | None
    """The repository, the configuration and the commit of the hub that the rows were read from; null for other sources."""
    model_content: str
    """The content of the pretrained weights: a hash, or the revision on the hub."""
    parent: str | None
    """The config_sha of the run whose adapter this one starts from, if any."""
    versions: list[Count]
    """The versions of the training code and of the metrics; a new version means that results may differ."""
    argv: list[str]
    """The arguments of the command."""
    started: str
    """The start in UTC, ISO 8601."""
    git: Git
    """The state of the checkout."""
    packages: dict[str, str | None]
    """The version of each package; null for one that is not installed."""
    python: str
    """The version of Python."""
    os: str
    """The operating system and the architecture."""
    device: str
    """The name of the GPU or the processor."""
    threads: Count
    """The number of CPU threads of each process."""
    fp32_matmul: str
    """`onednn` where oneDNN computes the matrix products on the CPU, else `stock`."""
    processes: Count
    """The number of processes that trained the run together."""
    rows: dict[str, Count]
    """The number of rows read from each split; for a data-to-text test split, the number of contexts decoded."""
    cohort: Cohort
    """The cohort in which the run trained, possibly as its only member; absent for a run outside of cohorts."""
    ended: str
    """The end in UTC, ISO 8601."""
