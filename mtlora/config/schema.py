"""The schema of every value in `conf/`: a typo in a YAML file or on the command line fails before anything runs.

Hydra merges the YAML files of `conf/` into these dataclasses, so an unknown key or a wrong type is refused at composition.
A field made by `one_of`, `at_least`, `above` or `share` also limits its values; `mtlora.config.checks` refuses other values, and
combinations of values that cannot work. The comment above or behind a field describes it in the JSON Schema for editors.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from mtlora.base.files import visible_files
from mtlora.base.messages import SCHEMA
from mtlora.base.paths import CONF
from mtlora.config.rules import above, at_least, one_of, share


def _structures() -> dict[str, str]:
    """Return the structure of T of each method that has one, from the files in `conf/transform/`."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in visible_files(CONF / "transform", "*.yaml")}
    found = {method: re.search(r"^ *structure: *(\w+)", text, re.MULTILINE) for method, text in texts.items()}
    return {method: match[1] for method, match in found.items() if match}


STRUCTURES = _structures()  # method -> structure; a new structure needs no edit here, only its file
PROTOCOLS = ("published", "matched", "tuned")


@dataclass
class HubSource:
    """The data of a task on the Hugging Face hub."""

    path: str = ""  # repository id; empty: the task is not on the hub
    name: str = ""  # the configuration's folder, which holds SPLIT-00000-of-00001.parquet or SPLIT/0000.parquet
    revision: str = ""  # a commit; or a branch, such as refs/convert/parquet, whose commit `make download` settles
    format: str = "table"  # table, or a key of mtlora.data.text_files.HUB_FORMATS
    splits: dict[str, str] = field(
        default_factory=dict
    )  # our name of a split -> the name in the repository, where they differ


@dataclass
class LocalFile:
    """One file that can hold a split in a local folder; the first one that exists is read (also with `.gz` added)."""

    file: str = MISSING  # path below data.root
    format: str = "table"  # table (.tsv without quoting, or .jsonl), or a key of mtlora.data.text_files.FORMATS
    # format=table: column of the file (its index, if the file has no header) -> column of the task
    columns: dict[str, str] = field(default_factory=dict)
    header: bool = True  # .tsv only: the first line names the columns
    subset: bool = False  # a part of the official split: read only with data.subset=true
    cut_rows: bool = False  # .tsv only: leave out, with a count, rows that a line break inside a text cuts in two


@dataclass
class TaskConfig:
    """A task, as data."""

    name: str = MISSING  # option name: cola, sst2, ...
    suite: str = MISSING  # glue | dart | webnlg | e2e
    kind: str = one_of("classification", "regression", "generation")
    text_columns: list[str] = MISSING  # one or two columns, in the order in which they are encoded
    labels: list[str] = field(default_factory=list)  # class names in index order (classification)
    lower_relation: bool = False  # generation: lower-case the relations in the context
    max_references: int | None = None  # generation: how many references of a context count, the first ones; null: all
    # generation: the categories of the training data; their contexts form test_S, all others test_U
    seen: list[str] = field(default_factory=list)
    # generation: the published treatment of texts before they are scored
    scoring: str = one_of("triples", "e2e", default="triples")
    # Evaluation split -> metric names; the first of the first split is the task's first metric, which chooses the best epoch.
    # A generation task is scored on the test split as `test`, or by category as `test_A` (all), `test_S` (seen), `test_U`.
    metrics: dict[str, list[str]] = MISSING
    hub: HubSource = field(default_factory=HubSource)
    local: dict[str, list[LocalFile]] = field(default_factory=dict)  # split -> candidates, official ones first
    # official number of rows by split (of contexts, for the test split of a generation task)
    sizes: dict[str, int] = MISSING
    mean_tokens: float = MISSING  # mean length of an official training row in tokens (cost estimates only)


@dataclass
class DataConfig:
    """Where the data comes from and how it becomes batches."""

    source: str = one_of("hub", "local", "builtin")
    root: str | None = None  # folder of the suite's files (source=local)
    # full: the official splits; tune: a part of the training data stands in for the evaluation splits (`mtlora.tune`)
    split: str = one_of("full", "tune", default="full")
    subset: bool = False  # allow partial training files; the run is then labelled low-resource
    max_length: int = at_least(8, default=128)  # tokens; longer inputs are cut, the longer text first
    padding: str = one_of("longest", "max_length", default="longest")
    order: str = one_of("length", "random", default="length")  # length: batches of similar length


@dataclass
class TargetSet:
    """A set of modules that an adapter may target."""

    modules: str = MISSING  # regular expression on module names
    fused: dict[str, list[bool]] = field(default_factory=dict)  # `fused_modules` of MTLoraConfig
    # block: one T per slice of a fused projection; joint: one T over all slices
    fused_transform: str = one_of("block", "joint", default="block")


@dataclass
class ModelConfig:
    """A pretrained backbone with its head and the sets of modules that an adapter may target."""

    name: str = MISSING
    source: str = one_of("hub", "package", "random")
    hub: str | None = None  # repository id
    revision: str | None = None  # pinned commit
    package: str | None = None  # installed package that carries the weights (source=random: the tokenizer)
    folder: str = "model"  # of the weights, or the tokenizer, inside the package
    gguf: str | None = None  # file name of quantised weights instead of model.safetensors; dequantised to fp32
    install: str | None = None  # how to install the package, if it belongs to no extra
    weights_sha256: str | None = None  # of model.safetensors or the GGUF file; checked before loading
    path: str | None = None  # a local snapshot folder: used instead of hub or package
    # bitsandbytes quantises the frozen linear layers: to 4 bits (blocks of 64) or to 8 (a scale per output); null: fp32
    quantization: str | None = one_of("nf4", "int8", default=None)
    architecture: dict[str, Any] = field(default_factory=dict)  # source=random: transformers config, with `model_type`
    # source=hub: values of its config.json; a local snapshot with the same values has this architecture
    pretrained_config: dict[str, Any] = field(default_factory=dict)
    head: list[str] = field(default_factory=list)  # modules that each run initialises afresh and trains in full
    head_dropout: float | None = share(default=None)  # before the classifier; null keeps the backbone's own value
    target_sets: dict[str, TargetSet] = MISSING
    parameters: int = MISSING  # their number in the backbone, without embeddings (cost estimates only)


@dataclass
class AdapterConfig:
    """A method, `conf/transform/METHOD.yaml`: LoRA or MTLoRA, another PEFT method (`peft`), or full fine-tuning (`full`)."""

    method: str = MISSING  # the name of the file; a row of a table
    label: str = MISSING  # the name that tables print
    structure: str = one_of(*sorted(set(STRUCTURES.values())), default="none")  # of T; none: T = I, which is LoRA
    r: int = at_least(1)
    alpha: float = above(0, default=16)
    # published: alpha as it is; matched: alpha divided by the relative size of the first step
    # (`mtlora.adapter.transforms.first_step`), so that it is as large as LoRA's; auto: as `protocol` has it.
    step: str = one_of("auto", "published", "matched", default="auto")
    like: str | None = None  # LoRA with the first step of this structure: alpha times its relative size
    train_t: bool = True  # false: T keeps its start, and only A and B train
    rate: float = above(0, default=1.0)  # the method's learning rate is the recipe's times this
    dropout: float = share(default=0.0)
    use_rslora: bool = False
    init_weights: str = one_of("official", "identity_t", "identity", "zero_t", default="official")
    fused_transform: str = one_of("auto", "block", "joint", default="auto")  # auto: the value of the target set
    # another PEFT method: its `peft_type` and fields of its configuration; `module` is imported first
    peft: dict[str, Any] = field(default_factory=dict)
    full: bool = False  # train the whole model, without an adapter

    @property
    def changes_step(self) -> bool:
        """Whether the start of T changes the size of the first step; T = I does not."""
        return self.structure != "none" and self.init_weights not in ("identity", "identity_t")


@dataclass
class TrainConfig:
    """The training recipe, which all methods share; the protocol `tuned` gives each method its own `lr_multiplier`."""

    epochs: int = at_least(1)
    batch_size: int = at_least(1)  # examples per batch
    learning_rate: float = above(0)
    lr_multiplier: float = above(0, default=1.0)  # of learning_rate; `mtlora.tune` chooses it
    parent_lr_multiplier: float | None = above(0, default=None)  # of the run that init_from names; null: the same
    lr_ratio_t: float = above(0, default=1.0)  # the rate of T is the learning rate times this
    lr_ratio_b: float = above(0, default=1.0)  # likewise the rate of B (LoRA+, arXiv 2402.12354)
    weight_decay: float = at_least(0)
    decay_t: bool = True  # weight decay applies to T too, as in the official code
    warmup_ratio: float = share(default=0.0)  # of all steps
    warmup_steps: int | None = at_least(0, default=None)  # instead of warmup_ratio
    beta1: float = share(default=0.9)
    beta2: float = share(default=0.999)
    eps: float = above(0, default=1e-8)
    max_grad_norm: float = at_least(0, default=1.0)  # 0 turns clipping off
    accumulation: int = at_least(1, default=1)  # batches per optimizer step
    precision: str = one_of("fp32", "bf16", default="fp32")
    eval_batch_size: int = at_least(1, default=64)
    # generation: weight of the uniform distribution over the vocabulary in the target
    label_smoothing: float = share(default=0.0)
    mean_bias: bool = False  # regression: the head's bias starts at the mean training label instead of 0
    # train on n examples only, the same for every seed and method; evaluation uses all
    limit_examples: int | None = at_least(1, default=None)
    # generation: compute the validation loss on n rows only, the same for every run
    limit_validation: int | None = at_least(1, default=None)
    log_every: int = at_least(1, default=10)  # steps between rows of metrics.jsonl
    # longest time between two checkpoints; every epoch ends with one
    checkpoint_seconds: float = at_least(0, default=300.0)


@dataclass
class DecodeConfig:
    """Beam search (generation tasks); the defaults are those of LoRA's GPT-2 scripts."""

    beams: int = at_least(1, default=10)
    # a hypothesis scores (sum of log-probabilities) / (generated tokens) ** length_penalty
    length_penalty: float = at_least(0, default=0.8)
    # no n-gram of this many GENERATED tokens occurs twice; 0 turns the ban off
    no_repeat_ngram: int = at_least(0, default=4)
    max_new_tokens: int = at_least(1, default=64)
    max_context: int = at_least(1, default=448)  # tokens of the context that are kept, counted from its end
    batch_size: int = at_least(1, default=16)  # contexts decoded together
    # a short run: decode and score only n test contexts, the same for every seed and method
    limit_contexts: int | None = at_least(1, default=None)


@dataclass
class TrackingConfig:
    """Experiment tracking."""

    name: str = one_of("none", "wandb", "tensorboard", "trackio", "mlflow", default="none")
    mode: str = one_of("offline", "online", default="offline")  # online: a server of wandb, trackio or mlflow
    project: str = "mtlora"
    entity: str | None = None  # of wandb


@dataclass
class ComputeConfig:
    """The device of a run and its settings; they are part of its provenance, not of its identity."""

    device: str = one_of("auto", "cpu", "cuda", default="auto")
    # CPU threads; 0: OMP_NUM_THREADS, or else the cores that this process may use
    threads: int = at_least(0, default=0)
    # auto: oneDNN where a measurement shows that it computes in fp32
    cpu_gemm: str = one_of("auto", "stock", default="auto")


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
    # published: one learning rate and one alpha for all methods; matched: alpha so that their first steps are equally large;
    # tuned: matched, and the learning rate that `mtlora.tune` has chosen for each method
    protocol: str = one_of(*PROTOCOLS)
    # the stem of the file in RESULTS/tuned that protocol=tuned reads; null: suite and profile
    tuning: str | None = None
    # second: the second best learning rate; mtlora.reproduce trains both where the choice is unsure
    tuned_choice: str = one_of("best", "second", default="best")
    recipe: str = MISSING  # the source of the training values
    seed: int = at_least(0, default=0)
    targets: str = "qv"  # name of one of the model's target sets
    init_from: str = "none"  # the task from whose adapter this run starts (same method, rank and seed)
    results: str = "results"  # folder of runs/, cache/, tables/

    @property
    def learning_rate(self) -> float:
        """The peak learning rate of this run: the recipe's, times the method's and the tuned factor."""
        return self.train.learning_rate * self.train.lr_multiplier * self.adapter.rate

    @property
    def decodes(self) -> bool:
        """Whether the run generates texts for the test split after its training; a run for tuning does not."""
        return self.task.kind == "generation" and self.data.split == "full"


ConfigStore.instance().store(name=SCHEMA, node=RunConfig)
