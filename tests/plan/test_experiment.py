"""Experiments: a grid of cells, what overrides do to it, and the stages in which it runs."""

import dataclasses
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest
from helpers.tiny_runs import cell_in, overrides

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.plan.cell import Cell, compose_cell
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan, parse_overrides


@lru_cache
def plan_of(*overrides: str) -> Plan:
    return make_plan(load_experiment("glue"), overrides)


def keys(cells: list[Cell]) -> list[tuple[int, str, str, int]]:
    return [(c.config.seed, c.config.task.name, c.config.adapter.structure, c.config.adapter.r) for c in cells]


def tasks(cells: list[Cell]) -> list[str]:
    return [cell.config.task.name for cell in cells]


def test_overrides_replace_axes_and_the_first_axis_is_the_outermost() -> None:
    plan = plan_of("model=tiny", "transform=lora,dtsm", "task=stsb,rte", "seed=3,1")
    assert keys(plan.cells) == [
        (3, "stsb", "none", 8),
        (3, "stsb", "dtsm", 8),
        (3, "rte", "none", 8),
        (3, "rte", "dtsm", 8),
        (1, "stsb", "none", 8),
        (1, "stsb", "dtsm", 8),
        (1, "rte", "none", 8),
        (1, "rte", "dtsm", 8),
    ]
    assert plan.axes["seed"] == ["3", "1"]
    assert {cell.config.model.name for cell in plan.cells} == {"tiny"}


def test_other_overrides_hold_for_every_cell() -> None:
    plan = plan_of("model=tiny", "task=rte,stsb", "transform=lora", "seed=0", "train.epochs=5", "rank=r2")
    assert keys(plan.cells) == [(0, "rte", "none", 2), (0, "stsb", "none", 2)]
    assert {cell.config.train.epochs for cell in plan.cells} == {5}


def test_a_swept_key_that_is_no_axis_multiplies_the_cells() -> None:
    plan = plan_of("model=tiny", "task=rte", "transform=lora", "seed=0", "train.learning_rate=1e-3,2e-3")
    assert [cell.config.train.learning_rate for cell in plan.cells] == [1e-3, 2e-3]
    assert len({cell.sha for cell in plan.cells}) == 2


def test_the_full_grid_and_profiles() -> None:
    experiment = load_experiment("glue")
    assert experiment.profiles["paper"]["seed"] == [0, 1, 2, 3, 4]
    paper = plan_of("profile=paper", "task=cola", "transform=lora")
    assert (paper.profile, paper.name) == ("paper", "glue_paper")
    assert [cell.config.seed for cell in paper.cells] == [0, 1, 2, 3, 4]
    assert {cell.config.data.source for cell in paper.cells} == {"hub"}
    mini = plan_of("model=tiny", "task=cola", "transform=lora")
    assert (mini.profile, mini.name) == ("mini", "glue")
    assert [cell.config.seed for cell in mini.cells] == [0, 1]
    assert plan_of("profile=paper", "task=cola", "transform=lora", "seed=7").cells[0].config.seed == 7


@pytest.mark.parametrize(
    ("override", "parsed"),
    [
        ("seed=0,1,2", {"seed": ["0", "1", "2"]}),
        ("seed=range(0,3)", {"seed": ["0", "1", "2"]}),
        ("task=choice(rte,cola)", {"task": ["rte", "cola"]}),
        ("task=sort(rte,cola)", {"task": ["cola", "rte"]}),
        ("task=rte,rte,cola,rte", {"task": ["rte", "cola"]}),  # twice the same run is one run
        ("+seed=4", {"seed": ["4"]}),
        ("++train.epochs=1,2", {"train.epochs": ["1", "2"]}),
        ("model.head=[pooler,classifier]", {"model.head": ["[pooler,classifier]"]}),
        ("data.root=../shared/data/glue", {"data.root": ["../shared/data/glue"]}),
        ("recipe=null", {"recipe": ["null"]}),
    ],
)
def test_sweep_grammar(override: str, parsed: dict[str, list[str]]) -> None:
    assert parse_overrides([override]) == parsed


def test_a_key_given_twice_counts_the_last_time() -> None:
    assert parse_overrides(["seed=1", "task=rte", "seed=2,3"]) == {"seed": ["2", "3"], "task": ["rte"]}


def test_a_path_with_a_space_reaches_the_cell() -> None:
    plan = plan_of("model=tiny", "task=rte", "transform=lora", "seed=0", "results=/some where/else")
    assert plan.cells[0].config.results == "/some where/else"


def test_without_init_from_there_is_one_stage() -> None:
    plan = plan_of("model=tiny", "task=stsb,rte", "transform=lora,dtsm", "seed=0")
    assert [keys(stage) for stage in plan.stages] == [keys(plan.cells)]


def test_in_the_paper_profile_small_tasks_come_after_their_mnli_parents() -> None:
    plan = plan_of("profile=paper", "transform=lora,shim", "seed=1")
    first, second = plan.stages
    assert Counter(tasks(first)) == dict.fromkeys(["cola", "sst2", "qqp", "mnli", "qnli"], 2)
    assert Counter(tasks(second)) == dict.fromkeys(["mrpc", "stsb", "rte"], 2)
    assert len(plan.cells) == 16
    done = {cell.sha: cell for cell in first}
    for cell in second:
        assert cell.parent is not None
        parent = done[cell.parent.sha]  # the parent is a cell of the table too: it is trained once
        assert parent.config.task.name == "mnli"
        assert keys([parent])[0][0::2] == keys([cell])[0][0::2]  # the same seed and method
        assert parent.config.adapter.r == cell.config.adapter.r


def test_parents_are_added_when_the_user_narrows_to_their_children() -> None:
    plan = plan_of("profile=paper", "task=rte", "transform=lora,shim", "seed=4")
    assert keys(plan.cells) == [(4, "rte", "none", 8), (4, "rte", "shim", 8)]
    first, second = plan.stages
    assert keys(first) == [(4, "mnli", "none", 8), (4, "mnli", "shim", 8)]
    assert second == plan.cells


def test_a_parent_has_its_own_recipe_but_the_users_overrides() -> None:
    plan = plan_of("profile=paper", "task=rte", "transform=lora", "seed=0", "train.precision=bf16")
    (parent,), (child,) = plan.stages
    assert (parent.config.train.epochs, child.config.train.epochs) == (30, 80)
    assert parent.config.train.precision == child.config.train.precision == "bf16"
    assert parent.config.init_from == "none"
    same = plan_of("profile=paper", "task=mnli", "transform=lora", "seed=0", "train.precision=bf16").cells[0]
    assert parent.sha == same.sha


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["profile=papre"], r"profile=papre .*choose one of mini, paper"),
        (["profile=mini,paper"], r"profile=mini,paper: .*one profile"),
        (["~seed"], r"~seed removes a key"),
        (["task=glob(*)"], r"task=glob\(\*\) names no values"),
        (["train.learning_rate=interval(0,1)"], r"interval\(0,1\) names no values"),
        (["seed"], r"seed is not of the form key=value"),
        (["seed=range(0,inf)"], r"seed=range\(0,inf\) names more than 10000 values"),
        (["train.learning_rate=1e999"], r"train\.learning_rate=inf is not a finite number"),
        (["model.hub=a (b)"], r"model\.hub=a \(b\): this value needs quotes: write 'model\.hub=\"a \(b\)\"'$"),
        (["model=tiny", "tsak=rte"], r"tsak"),
        (
            ["model=tiny", "task=rtee"],
            r"task=rtee: .* no such task: choose one of mnli.*did you mean rte",
        ),
        (["task=webnlg"], r"add a column for it to experiments/glue\.yaml"),
        (["profile=Paper"], r"did you mean paper"),
        (["model=tiny", "seed=first"], r"first"),
        (["model=tiny", "task=rte", "init_from=rte"], r"init_from=rte is the task itself"),
    ],
)
def test_a_wrong_override_is_one_line(
    overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    experiment = load_experiment("glue")

    def main() -> None:
        make_plan(experiment, overrides)

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(message, printed)


def test_an_unknown_experiment_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^there is no experiment gleu: choose one of .*glue.*$"):
        load_experiment("gleu")


@pytest.mark.parametrize(
    ("line", "named"), [("columms: []", "columms"), ("axes: 3", "axes"), ("title: [1]", "title"), ("", "columns")]
)
def test_a_broken_experiment_file_is_one_line(
    line: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {"suite": "suite: glue", "title": "title: T", "axes": "axes: {}", "profiles": "profiles: {}"}
    lines |= {"columns": "columns: []"} if line else {}
    lines |= {line.split(":")[0]: line}
    (tmp_path / "new.yaml").write_text("\n".join(lines.values()) + "\n")
    monkeypatch.setattr("mtlora.plan.experiment.EXPERIMENTS", tmp_path)
    with pytest.raises(UserError, match=rf"new\.yaml: [^\n]*{named}"):
        load_experiment("new")


@pytest.mark.parametrize("task", ["cola", "rte"])
def test_cells_of_further_seeds_are_what_composing_them_gives(task: str) -> None:
    plan = plan_of("profile=paper", f"task={task}", "transform=shim", "seed=0,7")  # rte starts from an MNLI run
    derived, composed = plan.cells[1], compose_cell(plan.cells[1].overrides)
    assert derived.config == composed.config
    assert (derived.sha, derived.overrides, derived.run_id) == (composed.sha, composed.overrides, composed.run_id)
    assert (derived.parent is None) == (composed.parent is None) == (task == "cola")
    if derived.parent and composed.parent:
        assert derived.parent.sha == composed.parent.sha


@pytest.mark.parametrize("more", [("seed=3", "transform=shim"), ("train.epochs=5",), ("task=rte", "init_from=mnli")])
def test_the_cells_of_tests_are_what_composing_them_gives(more: tuple[str, ...], tmp_path: Path) -> None:
    for _ in range(2):  # the second is a copy
        cell, composed = cell_in(tmp_path, *more), compose_cell(overrides(tmp_path, *more))
        assert (cell, cell.sha, cell.folder) == (composed, composed.sha, composed.folder)
        cell.config.train.learning_rate = 9.0  # of this cell only


def test_excluded_combinations_are_left_out() -> None:
    plan = make_plan(load_experiment("init"), ["task=cola", "seed=0"])
    starts = {(c.config.adapter.structure, c.config.adapter.init_weights) for c in plan.cells}
    assert {structure for structure, start in starts if start == "zero_t"} == {"shim", "dtsm"}
    assert len(plan.cells) == len(starts) == 16
    with pytest.raises(UserError, match="excludes every combination"):
        make_plan(load_experiment("init"), ["transform=icfm", "adapter.init_weights=zero_t"])


def test_a_plus_sign_reaches_the_cells() -> None:
    base = ("model=tiny", "task=rte", "transform=lora", "seed=0,1")
    plan = plan_of(*base, "+model.architecture.hidden_dropout_prob=0.0", "++train.epochs=3")
    for cell in plan.cells:
        assert cell.config.model.architecture["hidden_dropout_prob"] == 0.0
        assert cell.config.train.epochs == 3
        assert {"+model.architecture.hidden_dropout_prob=0.0", "++train.epochs=3"} <= set(cell.overrides)
        assert cell.sha == compose_cell(cell.overrides).sha, "the command of the cell makes the same run"


def test_a_folder_named_by_the_seed_is_one_for_each_seed() -> None:
    plan = plan_of("model=tiny", "task=rte", "transform=lora", "seed=0,1,2", "results=out/${seed}")
    assert [cell.config.results for cell in plan.cells] == ["out/0", "out/1", "out/2"]
    assert [cell.folder.parts[:3] for cell in plan.cells] == [("out", str(seed), "runs") for seed in range(3)]
    assert (plan.results, plan.runs) == (Path("out"), Path("out"))
    one = plan_of("model=tiny", "task=rte", "transform=lora", "seed=0,1,2", "results=out")
    assert (one.results, one.runs) == (Path("out"), Path("out/runs"))


def test_columns_are_those_of_the_tasks_in_the_plan() -> None:
    plan = plan_of("model=tiny", "task=stsb,rte", "transform=lora", "seed=0")
    assert [column.task for column in plan.columns] == ["rte", "stsb"], "in the order of the experiment"


@pytest.mark.parametrize("axes", [{"task": ["webnlg", "rte"]}, {}])
def test_a_task_of_the_file_without_a_column_is_refused(axes: dict[str, list[str]]) -> None:
    experiment = load_experiment("webnlg")
    rest = {"transform": ["lora"], "seed": [0]}  # without a task axis it is the configuration's default, rte
    changed = dataclasses.replace(experiment, axes={**axes, **rest}, profiles={"mini": {}})
    with pytest.raises(
        UserError, match=r"rte.*experiment webnlg has no such task: choose one of webnlg, or add a column"
    ):
        make_plan(changed, ["model=tiny"])
