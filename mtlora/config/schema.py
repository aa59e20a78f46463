"""The schema of every value in `conf/`: a typo in a YAML file or on the command line fails before anything runs.

Hydra merges the YAML files of `conf/` into these dataclasses, so an unknown key or a wrong type is refused at composition.
What types cannot say (ranges, combinations) is checked in `validation.py`.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class HubSource:
    """Where a task lives on the Hugging Face hub."""

    path: str = ""  # repository id; empty: the task is not on the hub
    name: str = ""  # configuration ("subset") inside the repository
    revision: str = ""  # pinned commit, or the branch of the parquet export
    format: str = "table"  # table, or a key of mtlora.data.text_files.HUB_FORMATS
    splits: dict[str, str] = field(default_factory=dict)  # our name of a split -> the repository's, where it differs


@dataclass
class LocalFile:
    """One file that can hold a split in a local folder; the first one that exists is read (also with `.gz` added)."""

    file: str = MISSING  # path below data.root
    format: str = "table"  # table (.tsv without quoting, or .jsonl), or a key of mtlora.data.text_files.FORMATS
    columns: dict[str, str] = field(
        default_factory=dict
    )  # format=table: column of the file (its index, if the file has no header) -> column of the task
    header: bool = True  # .tsv only: the first line names the columns
    subset: bool = False  # a part of the official split: read only with data.subset=true


@dataclass
class TaskConfig:
    """A task, as data."""

    name: str = MISSING  # option name: cola, sst2, ...
    suite: str = MISSING  # glue | dart | webnlg | e2e
    kind: str = MISSING  # classification | regression | generation
    text_columns: list[str] = MISSING  # one or two columns, in the order in which they are encoded
    labels: list[str] = field(default_factory=list)  # class names in index order (classification)
    lower_relation: bool = False  # generation: lower-case the relations in the context
    max_references: int | None = None  # generation: the first ones of a context count; null: all
    seen: list[str] = field(
        default_factory=list
    )  # generation: categories of the training data (test_S; others: test_U)
    scoring: str = "triples"  # generation: which published text treatment the metrics use: triples | e2e
    # Evaluation split -> metric names; the first of the first split is the headline. A generation task is scored on the test
    # split as `test`, or by category as `test_A` (all), `test_S` (seen), `test_U` (unseen).
    metrics: dict[str, list[str]] = MISSING
    hub: HubSource = field(default_factory=HubSource)
    local: dict[str, list[LocalFile]] = field(default_factory=dict)  # split -> candidates, official ones first
    sizes: dict[str, int] = (
        MISSING  # official number of rows per split (of the test split: of contexts; cost estimates only)
    )
    mean_tokens: float = MISSING  # mean length of an official training row in tokens (cost estimates only)


@dataclass
class DataConfig:
    """Where the data comes from and how it becomes batches."""

    source: str = MISSING  # hub | local | builtin
    root: str | None = None  # folder of the suite's files (source=local)
    subset: bool = False  # allow partial training files; the run is then labelled low-resource
    max_length: int = 128  # tokens; longer inputs are cut, the longer text first
    padding: str = "longest"  # longest | max_length
    order: str = "length"  # length (batches of similar length) | random


@dataclass
class TargetSet:
    """A set of modules that an adapter may target."""

    modules: str = MISSING  # regular expression on module names
    fused: dict[str, list[bool]] = field(default_factory=dict)  # `fused_modules` of MTLoraConfig
    fused_transform: str = "block"  # block (one T per slice of a fused projection) | joint (one T over all slices)


@dataclass
class ModelConfig:
    """A pretrained backbone with its head and the sets of modules that an adapter may target."""

    name: str = MISSING
    source: str = MISSING  # hub | package | random
    hub: str | None = None  # repository id
    revision: str | None = None  # pinned commit
    package: str | None = None  # installed package that carries the weights
    folder: str = "model"  # of the weights inside the package
    gguf: str | None = None  # file name of quantised weights instead of model.safetensors; dequantised to fp32
    install: str | None = None  # how the package is installed, if not by `make setup`
    weights_sha256: str | None = None  # of model.safetensors or the GGUF file; checked before loading
    path: str | None = None  # a local snapshot folder: used instead of hub or package
    architecture: dict[str, Any] = field(default_factory=dict)  # source=random: transformers config, with `model_type`
    head: list[str] = field(default_factory=list)  # modules that are trained in full, fresh at the start of each run
    head_dropout: float | None = None  # dropout before the classifier; null keeps the backbone's own value
    target_sets: dict[str, TargetSet] = MISSING
    parameters: int = MISSING  # of the backbone without embeddings (cost estimates only)


@dataclass
class AdapterConfig:
    """Values of `MTLoraConfig` that an experiment may set; `structure: none` is LoRA."""

    structure: str = MISSING  # none | shim | icfm | ctcm | dtsm
    r: int = MISSING
    alpha: float = 16
    dropout: float = 0.0
    use_rslora: bool = False
    init_weights: str = "official"  # official | identity | zero_t
    fused_transform: str = "auto"  # auto (as the target set says) | block | joint


@dataclass
class TrainConfig:
    """The shared recipe of every method."""

    epochs: int = MISSING
    batch_size: int = MISSING  # examples per batch
    learning_rate: float = MISSING
    weight_decay: float = MISSING
    decay_t: bool = True  # weight decay reaches T too, as in the official code
    warmup_ratio: float = 0.0  # share of all steps
    warmup_steps: int | None = None  # instead of warmup_ratio
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    max_grad_norm: float = 1.0  # 0 turns clipping off
    accumulation: int = 1  # batches per optimizer step
    precision: str = "fp32"  # fp32 | bf16
    eval_batch_size: int = 64
    label_smoothing: float = 0.0  # generation: weight of the uniform distribution over the vocabulary in the target
    mean_bias: bool = False  # regression: the head's bias starts at the mean training label instead of 0
    limit_examples: int | None = None  # train on n examples, the same for every seed and method; evaluation stays whole
    limit_validation: int | None = None  # generation: watch the loss of n validation rows, the same for every run
    log_every: int = 10  # steps between rows of metrics.jsonl
    checkpoint_seconds: float = 300.0  # a checkpoint at least this often, and at every epoch's end


@dataclass
class DecodeConfig:
    """Beam search (generation tasks); the defaults are those of LoRA's GPT-2 scripts."""

    beams: int = 10
    length_penalty: float = 0.8  # a hypothesis scores (sum of log-probabilities) / (generated tokens) ** length_penalty
    no_repeat_ngram: int = 4  # no n-gram of this many GENERATED tokens occurs twice; 0 turns the ban off
    max_new_tokens: int = 64
    max_context: int = 448  # tokens of the context that are kept, counted from its end
    batch_size: int = 16  # contexts decoded together
    limit_contexts: int | None = None  # decode and score n test contexts, the same for every seed and method: a trial


@dataclass
class TrackingConfig:
    """Experiment tracking."""

    name: str = "none"  # none | wandb
    mode: str = "offline"  # offline | online (wandb)
    project: str = "mtlora"
    entity: str | None = None


@dataclass
class ComputeConfig:
    """Where a run computes; recorded in the provenance, not part of a run's identity."""

    device: str = "auto"  # auto | cpu | cuda
    threads: int = 0  # CPU threads; 0 = OMP_NUM_THREADS, else the cores this process may use
    cpu_gemm: str = "auto"  # auto (oneDNN where it is measured to be fp32) | stock


@dataclass
class RunConfig:
    """Everything that defines one run."""

    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    profile: str = MISSING
    recipe: str = MISSING  # where the training values come from
    seed: int = 0
    targets: str = "qv"  # name of one of the model's target sets
    init_from: str = "none"  # task whose adapter this run starts from (same method, rank, seed)
    results: str = "results"  # folder of runs/, cache/, tables/


ConfigStore.instance().store(name="run_schema", node=RunConfig)


def lookup(config: RunConfig, key: str) -> Any:
    """Return the value of a dotted key, such as `model.name`."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def transform_name(config: RunConfig) -> str:
    """Return the method's name in records and tables: `lora`, or the structure of T."""
    return "lora" if config.adapter.structure == "none" else config.adapter.structure
