"""Everything in conf/ and experiments/ composes, and the recipes hold the values of the papers they name."""

import dataclasses
import math
import re
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from helpers.glue_files import TASKS
from helpers.hub_server import HubServer, export_files
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf

from mtlora.base.errors import UserError
from mtlora.base.messages import one_line
from mtlora.base.paths import CONF, EXPERIMENTS
from mtlora.config.checks import type_local_files
from mtlora.config.metrics import METRICS
from mtlora.config.schema import (
    STRUCTURES,
    AdapterConfig,
    ComputeConfig,
    DataConfig,
    DecodeConfig,
    LocalFile,
    ModelConfig,
    TargetSet,
    TaskConfig,
    TrackingConfig,
    TrainConfig,
)
from mtlora.data.files import BUILTIN
from mtlora.data.hub import fetch
from mtlora.data.text_files import FORMATS
from mtlora.plan.cell import Cell, compose_cell
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import make_plan

pytestmark = pytest.mark.xdist_group("configs")  # one process composes each configuration, once

SHIPPED = (*TASKS, "dart", "webnlg", "e2e")  # the tasks of this repository; a user may add others
METHODS = ("lora", "shim", "icfm", "ctcm", "dtsm")
RECIPES = sorted(
    (path.parent.name, path.stem)
    for path in (CONF / "recipe").glob("*/[!_]*.yaml")
    if path.parent.name != "study"  # of a profile, not of a model
)
EXPERIMENT_PROFILES = [
    (path.stem, profile)
    for path in sorted(EXPERIMENTS.glob("*.yaml"))
    for profile in OmegaConf.load(path).profiles  # type: ignore[union-attr]
]

# LoRA, arXiv 2106.09685, table 9 (RoBERTa-base): batch, epochs, learning rate; alpha 16 is that of the public scripts.
ROBERTA = {
    "mnli": (16, 30, 5e-4),
    "sst2": (16, 60, 5e-4),
    "mrpc": (16, 30, 4e-4),
    "cola": (32, 80, 4e-4),
    "qnli": (32, 25, 4e-4),
    "qqp": (16, 25, 5e-4),
    "rte": (32, 80, 5e-4),
    "stsb": (16, 40, 4e-4),
}
# AdaLoRA, arXiv 2303.10512, appendix (DeBERTaV3-base): learning rate, epochs, maximum length, alpha; batch 32.
DEBERTA = {
    "mnli": (5e-4, 7, 256, 16),
    "rte": (1.2e-3, 50, 320, 32),
    "qnli": (1.2e-3, 5, 512, 32),
    "mrpc": (1e-3, 30, 320, 32),
    "qqp": (5e-4, 5, 320, 16),
    "sst2": (8e-4, 24, 128, 16),
    "cola": (5e-4, 25, 64, 32),
    "stsb": (2.2e-3, 25, 128, 32),
}
FROM_MNLI = {"mrpc", "rte", "stsb"}  # tasks that start from the MNLI adapter in both papers' RoBERTa runs


@lru_cache
def composed(*overrides: str) -> Cell:
    return compose_cell(overrides)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a nested configuration, by its dotted name."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: leaf for name, node in value.items() for key, leaf in flat(node, f"{prefix}.{name}").items()}


def stated_source(recipe: str) -> str:
    """The source that a recipe states, or the one that it inherits from."""
    content = OmegaConf.load(CONF / f"{recipe.lstrip('/')}.yaml")
    return str(content["recipe"]) if "recipe" in content else stated_source(content["defaults"][0])


def refusal(overrides: list[str]) -> str:
    """The line that a user reads instead of a run."""
    with pytest.raises(HydraException) as error:
        _ = compose_cell(overrides).sha
    line = one_line(error.value)
    assert "\n" not in line
    return line


def test_every_model_of_the_papers_has_a_recipe_for_every_task() -> None:
    models = {path.stem for path in (CONF / "model").glob("*.yaml")}
    assert {model for model, _ in RECIPES} <= models
    expected = {(m, t) for m in ("minilm", "roberta_base", "deberta_v3_base", "tiny") for t in TASKS}
    assert expected <= set(RECIPES)


@pytest.mark.parametrize(("model", "task"), RECIPES)
def test_recipe_composes_and_states_its_source(model: str, task: str) -> None:
    config = composed(f"model={model}", f"task={task}").config
    assert (config.model.name, config.task.name, config.profile) == (model, task, "mini")
    source = stated_source(f"recipe/{model}/{task}")
    assert config.recipe == source
    own = {"minilm": "not from a paper", "tiny": "for tests", "gpt2_mini": "not from a paper", "tiny_gpt2": "for tests"}
    if model in own and task in SHIPPED:
        assert own[model] in source
    elif task in SHIPPED and model in ("roberta_base", "roberta_large", "deberta_v3_base", "gpt2_medium", "gpt2_large"):
        assert re.search(r"arXiv \d{4}\.\d{5}", source)
    assert len(source.split()) >= 2


@pytest.mark.parametrize("task", ["cola", "mrpc", "rte", "stsb"])
def test_the_study_has_one_recipe_for_its_tasks(task: str) -> None:
    config = composed("profile=study", f"task={task}", "protocol=matched", f"data.root={BUILTIN / 'glue'}").config
    train = config.train
    assert (config.profile, config.data.source, config.model.name) == ("study", "local", "minilm")
    assert (train.epochs, train.batch_size, train.learning_rate, train.precision) == (4, 16, 1e-3, "bf16")
    assert train.mean_bias == (task == "stsb")


@pytest.mark.parametrize("task", TASKS)
def test_roberta_recipes_are_those_of_the_paper(task: str) -> None:
    config = composed("profile=paper", f"task={task}").config
    train = config.train
    assert config.model.name == "roberta_base"
    assert (train.batch_size, train.epochs, train.learning_rate) == ROBERTA[task]
    assert (train.warmup_ratio, train.warmup_steps, train.weight_decay, train.accumulation) == (0.06, None, 0.1, 1)
    assert (config.data.max_length, config.adapter.r, config.adapter.alpha) == (512, 8, 16)
    assert (config.data.source, config.data.subset, config.train.limit_examples) == ("hub", False, None)
    assert config.init_from == ("mnli" if task in FROM_MNLI else "none")


@pytest.mark.parametrize("task", TASKS)
def test_deberta_recipes_are_those_of_the_paper(task: str) -> None:
    # The profile sets another model and length: the command line and the recipe must win.
    config = composed("profile=paper", "model=deberta_v3_base", f"task={task}").config
    train = config.train
    assert config.model.name == "deberta_v3_base"
    assert (train.learning_rate, train.epochs, config.data.max_length, config.adapter.alpha) == DEBERTA[task]
    assert (train.batch_size, train.accumulation) == (32, 1)


@pytest.mark.parametrize("overrides", [("task=rte",), ("profile=paper", "task=mrpc"), ("model=tiny", "task=stsb")])
def test_methods_share_everything_but_the_structure(overrides: tuple[str, ...]) -> None:
    lora = composed(*overrides, "transform=lora")
    for method in METHODS[1:]:
        other = composed(*overrides, f"transform={method}")
        ours, theirs = flat(dataclasses.asdict(lora.config)), flat(dataclasses.asdict(other.config))
        own = {".adapter.structure", ".adapter.method"}
        steps = {".adapter.step"} if lora.config.protocol == "matched" else set()
        assert {key for key in ours if ours[key] != theirs[key]} == own | steps | {".adapter.label"}
        assert (ours[".adapter.structure"], theirs[".adapter.structure"]) == ("none", method)
        identities = flat(lora.identity), flat(other.identity)
        assert identities[0].keys() == identities[1].keys()
        different = {key for key in identities[0] if identities[0][key] != identities[1][key]}
        assert different - {".parent"} == own | steps
        assert lora.sha != other.sha


@pytest.mark.parametrize(("name", "profile"), EXPERIMENT_PROFILES)
def test_every_experiment_and_profile_composes(name: str, profile: str, hub: HubServer) -> None:
    experiment = load_experiment(name)
    if profile == "paper" and name in ("dart", "webnlg", "e2e"):  # an identity needs the commit of their branch
        task = composed(f"task={name}", "model=gpt2_mini").config.task
        hub.add("dataset", task.hub.path, export_files(task, b"rows"), branch=task.hub.revision)
        fetch(task, list(task.sizes))
    # The study reads files, and its usual protocol needs a tuning file.
    files = [f"data.root={BUILTIN / experiment.suite}", "protocol=matched"] if profile == "study" else []
    plan = make_plan(experiment, [f"profile={profile}", "seed=0", "transform=lora,dtsm", *files])
    declared = experiment.axes | experiment.profiles[profile] | ({"protocol": ["matched"]} if files else {})
    assert {cell.config.task.name for cell in plan.cells} == set(declared["task"])
    others = [declared[key] for key in declared if key not in ("seed", "transform", "task")]
    combinations = len(declared["task"]) * 2 * math.prod(map(len, others))
    # LoRA has no T that could start at 0 or at I
    without = sum(start in ("zero_t", "identity_t") for start in declared.get("adapter.init_weights", []))
    assert len(plan.cells) == combinations - without * len(declared["task"])
    assert len({cell.sha for cell in plan.cells}) == len(plan.cells)
    assert all(cell.config.profile == profile and cell.config.task.suite == experiment.suite for cell in plan.cells)
    tasks = {cell.config.task.name: cell.config.task for cell in plan.cells}
    for column in experiment.columns:  # a table column that no run measures would stay empty for ever
        for entry in (column, column.beside):
            if entry is not None and column.task in tasks:
                assert entry.metric in tasks[column.task].metrics[entry.split]
    profiles = [experiment.axes | more for more in experiment.profiles.values()]
    assert {column.task for column in experiment.columns} == {t for p in profiles for t in p["task"]}


def test_glue_has_the_five_methods_eight_tasks_and_at_least_two_seeds() -> None:
    experiment = load_experiment("glue")
    assert set(experiment.axes["transform"]) == set(METHODS)
    assert set(experiment.axes["task"]) == set(TASKS)
    assert len(experiment.axes["seed"]) >= 2


@pytest.mark.parametrize("path", sorted((CONF / "task").glob("*.yaml")), ids=lambda path: path.stem)
def test_task_file(path: Path) -> None:
    read = OmegaConf.merge(OmegaConf.structured(TaskConfig), OmegaConf.load(path))
    task: TaskConfig = OmegaConf.to_object(read)  # type: ignore[assignment]
    type_local_files(task)
    generation = task.kind == "generation"
    splits = {"train", "validation", "test"} if generation else {"train", *task.metrics}
    assert task.name == path.stem
    assert (task.kind in ("regression", "generation")) == (task.labels == [])
    assert len(task.text_columns) in (1, 2)
    assert set(task.sizes) == splits
    assert {name for names in task.metrics.values() for name in names} <= set(METRICS)
    # The parquet exports of the hub are a branch of their own, whose commits it makes itself.
    assert re.fullmatch(r"[0-9a-f]{40}|refs/convert/parquet", task.hub.revision) or not task.hub.path
    assert task.hub.path or task.local, "its data come from somewhere"
    assert set(task.local) in (splits, set())
    if task.name in SHIPPED:
        assert task.hub.path
        assert task.local
    for files in task.local.values():
        for file in files:
            assert isinstance(file, LocalFile)
            assert (
                file.format in FORMATS
                if generation
                else sorted(file.columns.values()) == sorted([*task.text_columns, "label"])
            )
        assert not files[0].subset  # the official file comes first


@pytest.mark.parametrize("path", sorted((CONF / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_model_file(path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(f"model/{path.stem}").model  # alone, because it may have no recipe yet
    read = OmegaConf.merge(OmegaConf.structured(ModelConfig), composed)
    model: ModelConfig = OmegaConf.to_object(read)  # type: ignore[assignment]
    assert model.name == path.stem
    assert "qv" in model.target_sets, "the target set of every experiment"
    for pattern in (chosen.modules for chosen in model.target_sets.values()):
        assert re.compile(pattern)
    if model.source == "hub":
        assert re.fullmatch(r"[0-9a-f]{40}", str(model.revision))
    if model.source == "package":
        assert re.fullmatch(r"[0-9a-f]{64}", str(model.weights_sha256))


@pytest.mark.parametrize("path", sorted((CONF / "rank").glob("*.yaml")), ids=lambda path: path.stem)
def test_rank_file(path: Path) -> None:
    assert OmegaConf.load(path) == {"r": int(path.stem.removeprefix("r"))}


@pytest.mark.parametrize("path", sorted((CONF / "transform").glob("*.yaml")), ids=lambda path: path.stem)
def test_transform_file(path: Path) -> None:
    adapter = composed("model=tiny", "task=rte", f"transform={path.stem}").config.adapter
    assert adapter.method == path.stem
    assert adapter.label
    assert adapter.structure == STRUCTURES.get(path.stem, "none")
    assert path.read_text().splitlines()[1].startswith("# "), "it says what it is"
    labels = [
        composed("model=tiny", "task=rte", f"transform={m.stem}").config.adapter.label for m in path.parent.iterdir()
    ]
    assert labels.count(adapter.label) == 1, "a table has one row of this name"


@pytest.mark.parametrize("method", [path.stem for path in sorted((CONF / "transform").glob("*.yaml"))])
def test_a_step_is_matched_only_where_t_changes_it(method: str) -> None:
    one = ["model=tiny", "task=rte", f"transform={method}"]
    steps = {protocol: composed(*one, f"protocol={protocol}") for protocol in ("published", "matched")}
    changes = steps["matched"].config.adapter.structure != "none"
    assert steps["published"].config.adapter.step == "published"
    assert steps["matched"].config.adapter.step == ("matched" if changes else "published")
    assert (steps["published"].sha != steps["matched"].sha) == changes, "the same run otherwise"
    if changes:
        still = composed(*one, "protocol=matched", "adapter.init_weights=identity_t")
        assert still.config.adapter.step == "published"


@pytest.mark.parametrize("transform", ["dora", "vera", "full"])
@pytest.mark.parametrize(
    "override",
    [
        "adapter.structure=shim",
        "adapter.like=shim",
        "adapter.train_t=false",
        "adapter.init_weights=identity",
        "adapter.use_rslora=true",
        "adapter.fused_transform=joint",
    ],
)
def test_what_belongs_to_mtlora_is_refused_for_other_methods(transform: str, override: str) -> None:
    line = refusal(["model=tiny", "task=rte", f"transform={transform}", override])
    assert f"transform={transform}" in line
    assert override.split(".")[1].split("=")[0] in line


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("transform=lora", "adapter.train_t=false"), "adapter.train_t=false needs a structure with a T"),
        (("transform=lora", "train.lr_ratio_t=2"), "train.lr_ratio_t=2 needs a T that trains, which transform=lora has not"),
        (("transform=shim_frozen", "train.lr_ratio_t=2"), "train.lr_ratio_t=2 needs a T that trains"),
        (("transform=vera", "train.lr_ratio_t=2"), "train.lr_ratio_t=2 needs a T that trains"),
        (("transform=dora", "train.lr_ratio_b=4"), "train.lr_ratio_b=4 needs the B of LoRA or MTLoRA, not transform=dora"),
        (("transform=full", "train.lr_ratio_b=4"), "train.lr_ratio_b=4 needs the B of LoRA or MTLoRA, not transform=full"),
        (("transform=dora", "adapter.full=true"), "keep one of the two"),
        (("transform=lora_scaled", "adapter.like=cctm"), "adapter.like=cctm is not a structure: choose one of ctcm, dtsm"),
        (("transform=shim_frozen", "adapter.init_weights=zero_t"), "adapter.init_weights=zero_t cannot be used"),
        (("transform=shim", "adapter.init_weights=zero_t", "protocol=matched"), "has no step to match"),
    ],
)  # fmt: skip
def test_values_of_a_method_that_do_not_fit_each_other(overrides: tuple[str, ...], reason: str) -> None:
    assert reason in refusal(["model=tiny", "task=rte", *overrides])


def test_local_files_of_a_run_are_typed_with_defaults() -> None:
    local = composed("model=tiny", "task=qnli").config.task.local
    columns = {"question": "question", "sentence": "sentence", "label": "label"}
    assert local["train"] == [
        LocalFile("QNLI/train.tsv", columns=columns, header=True, subset=False),
        LocalFile("QNLI/train_subset.jsonl", columns=columns, header=True, subset=True),
    ]


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"file": "a.tsv", "colums": {}}, "colums"),
        ({"columns": {"a": "b"}}, "file"),
        ({"file": "a.tsv", "columns": {}, "subset": "perhaps"}, "perhaps"),
    ],
)
def test_a_malformed_local_file_is_one_line(item: dict[str, Any], named: str) -> None:
    task = TaskConfig(name="new", local={"train": [item]})  # type: ignore[list-item]
    with pytest.raises(UserError, match=rf"^task\.local\.train of new is malformed: .*{named}.*$"):
        type_local_files(task)


def test_a_missing_recipe_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = shutil.copytree(CONF, tmp_path / "conf")
    (conf / "recipe" / "roberta_base" / "qnli.yaml").unlink()
    monkeypatch.setattr("mtlora.plan.cell.CONF", conf)
    assert compose_cell(["model=tiny", "task=qnli"]).config.task.name == "qnli"
    line = refusal(["model=roberta_base", "task=qnli"])
    assert "no recipe" in line
    assert "conf/recipe/roberta_base/qnli.yaml" in line


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("task=rtee", "rtee"),
        ("transform=mtlora", "mtlora"),
        ("rank=r7", "r7"),
        ("train.lr=1", "train.lr"),
        ("train.epochs=many", "many"),
        ("train.epochs=0", "train.epochs=0"),
        ("adapter.r=0", "adapter.r=0"),
        ("train.learning_rate=0", "train.learning_rate=0"),
        ("targets=everything", "targets=everything"),
        ("data.source=local", "data.root"),
        ("+train.lr=1", "train.lr"),
        ("init_from=rte", "init_from=rte"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(override: str, named: str) -> None:
    assert named in refusal(["model=tiny", "task=rte", override])


@pytest.mark.parametrize("value", ["inf", "-inf", "1e999", "nan"])
@pytest.mark.parametrize(
    "key",
    [
        *(
            "train.learning_rate",
            "train.weight_decay",
            "train.lr_multiplier",
            "train.eps",
            "adapter.alpha",
            "adapter.rate",
        ),
        *("adapter.dropout", "decode.length_penalty", "model.head_dropout", "+adapter.peft.lora_alpha"),
    ],
)
def test_a_number_that_is_not_finite_is_one_line(key: str, value: str) -> None:
    line = refusal(["model=tiny", "task=rte", f"{key}={value}"])
    assert line.startswith(f"{key.lstrip('+')}={float(value)} is ")


def test_infinity_where_it_is_natural() -> None:
    cell = composed("model=tiny", "task=rte", "train.max_grad_norm=inf", "train.checkpoint_seconds=inf")
    assert cell.config.train.max_grad_norm == 0.0  # no clipping
    assert cell.config.train.checkpoint_seconds > 1e7
    assert cell.sha == composed("model=tiny", "task=rte", "train.max_grad_norm=0").sha


def test_a_learning_rate_whose_factors_are_too_large_is_one_line() -> None:
    line = refusal(["model=tiny", "task=rte", "train.learning_rate=1e300", "train.lr_multiplier=1e300"])
    assert "train.lr_multiplier" in line
    assert "infinite" in line


def test_the_home_folder_is_known_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [f'{key}="~/it\'s"' for key in ("data.root", "model.path", "results")]
    config = composed("model=tiny", "task=rte", "data.source=local", *paths).config
    assert {config.data.root, config.model.path, config.results} == {f"{tmp_path}/it's"}


@pytest.mark.parametrize(
    "override", ['data.root="~nobody_here/x"', 'results="~nobody_here/x"', "results=", 'model.path=" "']
)
def test_a_path_that_is_none_is_one_line(override: str) -> None:
    key = override.partition("=")[0]
    assert refusal(["model=tiny", "task=rte", "data.source=local", override]).startswith(f"{key}=")


def test_weights_that_may_move_are_refused() -> None:
    line = refusal(["model=roberta_base", "task=rte", "model.revision=main"])
    assert "model.revision=main may move to other weights: name a commit" in line


@pytest.mark.parametrize(
    ("task", "override", "reason"),
    [
        ("rte", "task.metrics.validation=[pearson]", "pearson does not fit a classification task with 2 classes"),
        ("mnli", "task.metrics.validation_matched=[f1]", "f1 does not fit a classification task with 3 classes"),
        ("stsb", "task.metrics.validation=[accuracy]", "accuracy does not fit a regression task: choose from pearson,"),
        ("rte", "task.metrics.validation=[bleu]", "bleu does not fit a classification task"),
    ],
)
def test_a_metric_of_another_kind_of_task_is_one_line(task: str, override: str, reason: str) -> None:
    assert f"task.metrics of {task}: {reason}" in refusal(["model=tiny", f"task={task}", override])


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("data.padding=none", "choose one of longest, max_length"),
        ("adapter.structure=lora", f"choose one of {', '.join(sorted({*STRUCTURES.values(), 'none'}))}"),
        ("model.target_sets.qv.fused_transform=both", "choose one of block, joint"),
        ("train.warmup_ratio=1.0", "it must be at least 0 and below 1"),
        ("train.warmup_steps=-1", "it must be at least 0"),
        ("data.max_length=7", "it must be at least 8"),
        ("train.eps=0.0", "it must be above 0"),
        ("compute.threads=-1", "it must be at least 0"),
        ("seed=-1", "it must be at least 0"),
    ],
)
def test_a_value_that_its_field_does_not_take_is_one_line(override: str, allowed: str) -> None:
    line = refusal(["model=tiny", "task=rte", override])
    assert line.startswith(f"{override} is ")
    assert line.endswith(f": {allowed}")


def test_every_default_follows_its_own_rule() -> None:
    ruled = [
        f
        for part in (DataConfig, TargetSet, AdapterConfig, TrainConfig, DecodeConfig, TrackingConfig, ComputeConfig)
        for f in dataclasses.fields(part)
        if f.metadata.get("rule") is not None
    ]
    assert len(ruled) > 30
    assert all(f.metadata["rule"].holds(f.default) for f in ruled if f.default not in (None, MISSING))


def test_an_unknown_key_in_a_file_names_the_file_and_the_key_that_was_meant(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    task = conf / "task" / "rte.yaml"
    task.write_text(task.read_text().replace("text_columns", "text_colums"))
    with initialize_config_dir(str(conf), version_base="1.3"), pytest.raises(HydraException) as failure:
        compose("config", overrides=["task=rte", "model=tiny"])
    line = "conf/task/rte.yaml: task.text_colums is not a known key or group (did you mean task.text_columns?)"
    assert one_line(failure.value) == line


def test_an_unknown_key_of_an_experiment_or_a_local_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (EXPERIMENTS / "glue.yaml").read_text()
    (tmp_path / "own.yaml").write_text(text.replace("title:", "titel:"))
    monkeypatch.setattr("mtlora.plan.experiment.EXPERIMENTS", tmp_path)
    with pytest.raises(UserError, match=r"own\.yaml: titel: .* \(did you mean title\?\)$"):
        load_experiment("own")
    task = TaskConfig(name="new", local={"train": [{"file": "a.tsv", "colums": {}}]})  # type: ignore[list-item]
    with pytest.raises(UserError, match=r"\(did you mean columns\?\): repair its YAML file"):
        type_local_files(task)
