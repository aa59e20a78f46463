"""The choice of a learning rate for each method, on hand-made scores: no run is trained here."""

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.record_files import make_record
from helpers.tuning_files import make_tuning

from mtlora.base.errors import UserError
from mtlora.plan import cell as cells_module
from mtlora.plan.cell import Archive, Cell, compose_cell
from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.plan.trials import TrialScores
from mtlora.plan.tuning import Tuning, load_tuning, save_tuning, with_earlier
from mtlora.tables.compare import compare
from mtlora.tables.comparison import headlines
from mtlora.tables.differences import differences
from mtlora.tables.evidence import Evidence
from mtlora.tables.view import View
from mtlora.tune import check_earlier, check_seeds, options, tune

Score = Callable[[Cell], float | None]  # the raw score of a run; None: it diverges
MAJORITY = 0.3


class FakeSweep:
    """Writes the records that a sweep would leave, and notes what it was asked for."""

    def __init__(self, score: Score) -> None:
        self.score, self.calls = score, list[list[Cell]]()

    def train(self, cells: list[Cell]) -> None:
        self.calls.append(cells)
        for cell in cells:
            ((split, names),) = cell.config.task.metrics.items()
            value = self.score(cell)
            record = make_record(cell, {(name, split): (value or 0.0,) * 2 for name in names}, baseline=MAJORITY)
            if value is None:
                record.status, record.diverged, record.metrics = "failed", True, []
            record.save(cell.folder)


def tuning_plan(results: Path, *more: str) -> Plan:
    given = ["model=tiny", "rank=r2", "data.split=tune", "train.lr_multiplier=1.0", f"results={results}", *more]
    return make_plan(load_experiment("glue"), given)


def run(
    results: Path, score: Score, *more: str, by: str = "suite", grid: tuple[float, ...] = (0.25, 0.5, 1, 2, 4)
) -> tuple[Tuning, FakeSweep]:
    plan, sweep = tuning_plan(results, *more), FakeSweep(score)
    tuning = tune(load_experiment("glue"), plan, by, grid, sweep)  # type: ignore[arg-type]
    save_tuning(tuning, results / "tuned" / "glue.yaml")
    return load_tuning(results / "tuned" / "glue.yaml"), sweep


def peak(centers: dict[str, float], noise: float = 0.0) -> Score:
    """Scores that fall with the distance, in octaves, from each method's best factor."""

    def score(cell: Cell) -> float:
        c = cell.config
        distance = abs(math.log2(c.train.lr_multiplier / centers[c.adapter.method]))
        jitter = noise * (1 if c.seed % 2 else -1) * math.cos(9 * c.train.lr_multiplier)
        return 0.8 - 0.1 * distance + jitter

    return score


BOTH = ("task=cola,rte", "transform=lora,shim")


def test_each_method_gets_its_best_factor_with_equally_many_trials(tmp_path: Path) -> None:
    tuning, _ = run(tmp_path, peak({"lora": 1, "shim": 2}), *BOTH)
    assert {choice.method: choice.multiplier for choice in tuning.choices} == {"lora": 1.0, "shim": 2.0}
    assert all(choice.tasks == ["cola", "rte"] and choice.share == 1.0 for choice in tuning.choices)
    assert tuning.seeds == [100, 101]
    counts = {m: sum(trial.method == m for trial in tuning.trials) for m in ("lora", "shim")}
    assert counts == {"lora": 5 * 2 * 2, "shim": 5 * 2 * 2}
    best = next(t for t in tuning.trials if (t.method, t.task, t.multiplier, t.seed) == ("lora", "cola", 1.0, 100))
    assert best.score == pytest.approx(80)  # on the scale of tables


def test_a_best_factor_at_an_end_widens_the_grid_for_all_methods(tmp_path: Path) -> None:
    tuning, sweep = run(tmp_path, peak({"lora": 1, "shim": 8}), *BOTH)
    assert {choice.method: choice.multiplier for choice in tuning.choices} == {"lora": 1.0, "shim": 8.0}
    assert tuning.grid == [0.25, 0.5, 1, 2, 4, 8, 16]
    tried = {m: {t.multiplier for t in tuning.trials if t.method == m} for m in ("lora", "shim")}
    assert tried["lora"] == tried["shim"] == set(tuning.grid)
    assert len(sweep.calls) == 3


def test_an_optimum_that_stays_at_the_end_is_one_line_and_no_choice(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"on cola, rte the best factor is still at an end of the grid for shim \(32\)"
    ) as error:
        run(tmp_path, peak({"lora": 1, "shim": 64}), *BOTH)
    assert "\n" not in str(error.value)
    assert "tune.grid" in str(error.value)


def test_half_steps_where_a_neighbour_is_within_one_standard_error(tmp_path: Path) -> None:
    tuning, _ = run(tmp_path, peak({"lora": 1, "shim": 2}, noise=0.2), *BOTH)
    halves = {t.multiplier for t in tuning.trials} - set(tuning.grid)
    assert halves
    per_method = [sum(t.method == m for t in tuning.trials) for m in ("lora", "shim")]
    assert per_method[0] == per_method[1] == 7 * 2 * 2  # two half steps for each method
    for choice in tuning.choices:
        assert 0 < choice.share < 1 or choice.standard_error > 0


def test_a_diverged_trial_counts_as_the_majority_answer(tmp_path: Path) -> None:
    """One seed diverges at the factor that is best on the survivors."""

    def score(cell: Cell) -> float | None:
        c = cell.config
        if c.train.lr_multiplier == 2 and c.seed == 101:
            return None
        return {0.5: 0.6, 1.0: 0.7, 2.0: 0.9}.get(c.train.lr_multiplier, 0.1)

    tuning, _ = run(tmp_path, score, "task=rte", "transform=lora")
    (choice,) = tuning.choices
    assert choice.multiplier == 1.0  # 0.7 against (0.9 + 0.3) / 2
    (diverged,) = [trial for trial in tuning.trials if trial.diverged]
    assert diverged.score == pytest.approx(100 * MAJORITY)


def test_one_factor_for_each_task(tmp_path: Path) -> None:
    def score(cell: Cell) -> float:
        center = {"cola": 0.5, "rte": 2.0}[cell.config.task.name]
        return 0.8 - 0.1 * abs(math.log2(cell.config.train.lr_multiplier / center))

    tuning, _ = run(tmp_path, score, *BOTH, by="task")
    chosen = {(choice.method, *choice.tasks): choice.multiplier for choice in tuning.choices}
    assert chosen == {(m, t): f for m in ("lora", "shim") for t, f in (("cola", 0.5), ("rte", 2.0))}


def test_the_rate_of_a_parent_is_decided_first_and_its_children_start_from_it(tmp_path: Path) -> None:
    more = ("task=mnli,rte", "transform=lora,shim", "init_from=none,mnli")
    experiment = replace(
        load_experiment("glue"),
        exclude=[{"task": "mnli", "init_from": "mnli"}, {"task": "rte", "init_from": "none"}],
    )
    plan = make_plan(
        experiment,
        ["model=tiny", "rank=r2", "data.split=tune", "train.lr_multiplier=1.0", f"results={tmp_path}", *more],
    )

    def score(cell: Cell) -> float:
        center = {("mnli", "lora"): 0.5, ("mnli", "shim"): 2.0, ("rte", "lora"): 1.0, ("rte", "shim"): 1.0}
        c = cell.config
        return 0.8 - 0.1 * abs(math.log2(c.train.lr_multiplier / center[c.task.name, c.adapter.method]))

    sweep = FakeSweep(score)
    tuning = tune(experiment, plan, "suite", (0.25, 0.5, 1, 2, 4), sweep)  # type: ignore[arg-type]
    assert [{cell.config.task.name for cell in call} for call in sweep.calls] == [{"mnli"}, {"rte"}]
    parents = {
        cell.config.adapter.method: cell.parent.config.train.lr_multiplier for cell in sweep.calls[1] if cell.parent
    }
    assert parents == {"lora": 0.5, "shim": 2.0}
    for cell in sweep.calls[1][:3]:  # the command alone gives the same run, as launchers need it
        assert compose_cell(cell.overrides).sha == cell.sha
    # The final runs: each with the factor of its own group, and of its parent's.
    save_tuning(tuning, tmp_path / "tuned" / "glue.yaml")
    final = compose_cell(
        [
            "model=tiny",
            "rank=r2",
            "task=rte",
            "transform=shim",
            "init_from=mnli",
            "protocol=tuned",
            f"results={tmp_path}",
        ]
    )
    assert final.parent is not None
    assert (final.config.train.lr_multiplier, final.parent.config.train.lr_multiplier) == (1.0, 2.0)


def final(results: Path, *more: str) -> Cell:
    given = ["model=tiny", "rank=r2", "task=rte", "transform=shim", "protocol=tuned", f"results={results}", *more]
    return compose_cell(given)


def test_the_protocol_tuned_uses_the_choice(tmp_path: Path) -> None:
    run(tmp_path, peak({"lora": 1, "shim": 2}), *BOTH)
    cell = final(tmp_path)
    assert cell.config.learning_rate == 2 * cell.config.train.learning_rate
    assert cell.config.adapter.step == "matched"
    # A method whose best factor is 1 has the runs of the protocol matched.
    lora = ("transform=lora", "protocol=matched")
    assert final(tmp_path, "transform=lora").sha == final(tmp_path, *lora).sha
    assert final(tmp_path).sha != final(tmp_path, "protocol=matched").sha


def refused(results: Path, *more: str) -> str:
    with pytest.raises(UserError) as error:
        final(results, *more)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_makes_a_tuning_file_unusable_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "python -m mtlora.tune" in refused(tmp_path)  # there is none
    run(tmp_path, peak({"lora": 1, "shim": 2}), *BOTH)
    assert final(tmp_path, "seed=1").config.seed == 1
    assert "seed=100 was used for tuning" in refused(tmp_path, "seed=100")
    line = refused(tmp_path, "train.epochs=1")
    assert "has no learning rate for shim on rte with these settings: it was made with other values" in line
    assert "with these settings" in refused(tmp_path, "rank=r8")
    assert "no learning rate for ctcm" in refused(tmp_path, "transform=ctcm")
    assert "no learning rate for shim on mrpc" in refused(tmp_path, "task=mrpc")
    assert "leave it out" in refused(tmp_path, "train.lr_multiplier=2")
    path = tmp_path / "tuned" / "glue.yaml"
    written = path.read_text()
    tuning = load_tuning(path)
    for choice in tuning.choices:
        choice.multiplier = 3.0  # of another grid
    save_tuning(tuning, path)
    assert "names a factor for shim on rte that no trial has tried" in refused(tmp_path)
    path.write_text(written)
    with monkeypatch.context() as patch:
        patch.setattr(cells_module, "TRAINING_VERSION", cells_module.TRAINING_VERSION + 1)
        assert "code" in refused(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cells_module, "split_fingerprint", lambda *_: "other training rows")
        assert "data" in refused(tmp_path)
    (tmp_path / "tuned" / "glue.yaml").write_text("choices: 3\n")
    assert "not a tuning file" in refused(tmp_path)


def test_a_plan_names_its_protocol_and_refuses_tuning_seeds(tmp_path: Path) -> None:
    run(tmp_path, peak({"lora": 1, "shim": 2}), *BOTH)
    given = ["model=tiny", "rank=r2", *BOTH, f"results={tmp_path}"]
    names = {
        (): "glue",
        ("protocol=tuned",): "glue_tuned",
        ("protocol=matched",): "glue",
        ("protocol=published",): "glue_published",
        ("protocol=published,tuned",): "glue_protocols",
    }
    for more, name in names.items():
        assert make_plan(load_experiment("glue"), [*given, *more]).name == name
    with pytest.raises(UserError, match="seed=101 was used for tuning"):
        make_plan(load_experiment("glue"), [*given, "protocol=tuned", "seed=0,101"])
    paper = ["profile=paper", "init_from=none", "task=cola", "transform=lora,shim", "seed=0"]
    assert make_plan(load_experiment("glue"), paper).name == "glue_paper"
    assert make_plan(load_experiment("glue"), [*paper, "protocol=matched"]).name == "glue_paper_matched"
    assert (
        make_plan(load_experiment("init"), ["task=cola", "transform=lora,shim", "seed=0"]).name == "init"
    )  # published is its own protocol


def test_one_run_may_be_a_row_of_two_protocols() -> None:
    given = ["model=tiny", "rank=r2", "task=rte", "transform=lora,shim", "seed=0", "protocol=published,matched"]
    plan = make_plan(load_experiment("glue"), given)
    shas = {(cell.config.adapter.method, cell.config.protocol): cell.sha for cell in plan.cells}
    assert len(plan.cells) == len(shas) == 4
    assert shas["lora", "published"] == shas["lora", "matched"]
    assert shas["shim", "published"] != shas["shim", "matched"]
    assert len(plan.stages[0]) == 3  # the runs


def test_scores() -> None:
    values = np.array([[[60.0, 62.0], [50.0, 50.0]], [[64.0, 70.0], [50.0, 54.0]], [[60.0, 61.0], [40.0, 41.0]]])
    scores = TrialScores((0.5, 1.0, 2.0), values)
    assert scores.means.tolist() == [55.5, 59.5, 50.5]
    assert (scores.best, scores.second) == (1, 0)
    mean, error = scores.difference(1, 0)
    # Differences: task 1: 4, 8 (variance 8), task 2: 0, 4 (variance 8); error^2 = (8 / 2 + 8 / 2) / 2^2.
    assert (mean, error) == (4.0, pytest.approx(math.sqrt(2.0)))
    assert not scores.is_close
    assert scores.shares().tolist() == [pytest.approx(0), pytest.approx(1, abs=0.1), 0.0]


def test_the_share_is_that_of_the_resamples() -> None:
    """One task, two seeds: the second factor wins on one of them by more than it loses on the other."""
    values = np.array([[[50.0, 50.0]], [[49.0, 53.0]]])
    shares = TrialScores((1.0, 2.0), values).shares()
    # Resamples: both seeds (1/2) and twice the second seed (1/4) prefer the second factor.
    assert shares[1] == pytest.approx(0.75, abs=0.04)
    assert shares.sum() == pytest.approx(1)


def test_equal_scores_prefer_the_recipe() -> None:
    scores = TrialScores((0.5, 1.0, 2.0), np.full((3, 2, 2), 40.0))
    assert scores.factors[scores.best] == 1.0
    assert scores.shares()[1] == 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tune.by": ["method"]}, "tune.by=method is not known"),
        ({"tune.grid": ["0", "1"]}, "factors above 0"),
        ({"tune.grid": ["a"]}, "factors above 0"),
        ({"tune.gird": ["1"]}, "tune.gird is not known"),
    ],
)
def test_options_that_are_refused(given: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(given)


def test_seeds_that_are_refused(tmp_path: Path) -> None:
    experiment = load_experiment("glue")
    with pytest.raises(UserError, match="seed=1 is a seed of the final runs"):
        check_seeds(experiment, tuning_plan(tmp_path, *BOTH, "seed=1,100"))
    with pytest.raises(UserError, match="at least two seeds"):
        check_seeds(experiment, tuning_plan(tmp_path, *BOTH, "seed=100"))


def test_an_unsure_choice_is_confirmed_at_both_rates_and_the_difference_weighted(tmp_path: Path) -> None:
    run(tmp_path, peak({"lora": 1, "shim": 2}), *BOTH)
    path = tmp_path / "tuned" / "glue.yaml"
    tuning = load_tuning(path)
    for choice in tuning.choices:
        choice.second = 1.0 if choice.method == "shim" else 2.0
        choice.share, choice.second_share = (0.6, 0.3) if choice.method == "shim" else (0.9, 0.1)
    save_tuning(tuning, path)
    given = ["model=tiny", "rank=r2", *BOTH, f"results={tmp_path}", "protocol=tuned", "seed=range(0,6)"]
    plan = make_plan(load_experiment("glue"), given)
    assert {c.config.adapter.method for c in plan.confirm} == {"shim"}, "LoRA's choice is sure"
    assert {c.config.train.lr_multiplier for c in plan.confirm} == {1.0}
    assert len(plan.confirm) == sum(c.config.adapter.method == "shim" for c in plan.cells)
    assert {c.sha for c in plan.every} <= {c.sha for stage in plan.stages for c in stage}
    assert compose_cell(plan.confirm[0].overrides).sha == plan.confirm[0].sha
    records, gains = {}, {2.0: 0.010, 1.0: 0.004}
    for cell in plan.every:
        c = cell.config
        value = 0.6 + (c.adapter.method == "shim") * (gains.get(c.train.lr_multiplier, 0) + 0.001 * (c.seed % 3))
        columns = [column for column in plan.experiment.columns if column.task == c.task.name]
        records[cell.sha] = make_record(cell, {(column.metric, column.split): (value, value) for column in columns})
    (c,) = headlines(compare(plan, records))
    steps = [0.1 * (s % 3) for s in range(6)]
    error = statistics.stdev(steps) / (6 * len(plan.columns)) ** 0.5
    mean = (2 * (1.0 + 0.1) + (0.4 + 0.1)) / 3
    assert c.difference is not None
    assert c.difference.mean == pytest.approx(mean)
    between = (2 * (1.1 - mean) ** 2 + (0.5 - mean) ** 2) / 3
    assert c.difference.error == pytest.approx((error**2 + between) ** 0.5)
    assert c.head is not None
    assert (c.head.rates, c.head.unconfirmed) == (2, False)
    table = differences(View(plan, Evidence(records)), contrasts=False)
    assert table is not None
    assert any("the difference is a weighted mean over its two best rates" in note for note in table.notes)
    (c,) = headlines(compare(plan, {sha: r for sha, r in records.items() if sha in {x.sha for x in plan.cells}}))
    assert c.difference is not None
    assert c.head is not None
    assert (c.difference.mean, c.head.rates, c.head.unconfirmed) == (pytest.approx(1.1), 1, True)


def test_a_later_call_adds_methods_and_keeps_those_of_before(tmp_path: Path) -> None:
    run(tmp_path, peak({"lora": 1, "shim": 2}), *BOTH)
    path = tmp_path / "tuned" / "glue.yaml"
    old = load_tuning(path)
    tasks = old.choices[0].tasks
    new = make_tuning(["ctcm", "shim"], [tasks], [0.5, 1.0, 2.0], lambda *a: -abs(a[2] - 1))
    merged = with_earlier(new, path)
    assert [(c.method, c.multiplier) for c in merged.choices] == [("ctcm", 1.0), ("shim", 1.0), ("lora", 1.0)]
    assert {t.run_id for t in merged.trials} == {t.run_id for t in new.trials} | {
        t.run_id for t in old.trials if t.method == "lora"
    }
    assert with_earlier(new, tmp_path / "none.yaml") == new


def test_a_choice_for_several_tasks_is_not_tuned_again_for_one(tmp_path: Path) -> None:
    run(tmp_path, peak({"lora": 1, "shim": 2}), *BOTH)
    check_earlier(tuning_plan(tmp_path, *BOTH), "suite")
    check_earlier(tuning_plan(tmp_path, "task=rte", "transform=ctcm"), "suite")
    for by in ("suite", "task"):
        with pytest.raises(
            UserError, match=r"one learning rate of shim for cola, rte: tune them together \(task=cola,rte\)"
        ):
            check_earlier(tuning_plan(tmp_path, "task=rte", "transform=shim"), by)


def test_without_data_and_code_a_choice_is_found_by_its_setting(tmp_path: Path) -> None:
    ranks = ("", "rank=r2", "rank=r8")
    tuning = make_tuning(["shim"], [["rte"]], [0.5, 1.0, 2.0], lambda *a: -abs(a[2] - 1), settings=ranks)
    for choice, factor in zip(tuning.choices, (0.5, 1.0, 2.0), strict=True):
        choice.multiplier = factor
    save_tuning(tuning, tmp_path / "tuned" / "glue.yaml")
    for rank, factor in (("r2", 1.0), ("r8", 2.0), ("r4", 0.5)):
        given = ["model=tiny", "task=rte", "transform=shim", f"rank={rank}", "protocol=tuned", f"results={tmp_path}"]
        assert compose_cell(given, Archive({})).config.train.lr_multiplier == factor


def test_what_a_choice_depends_on_leaves_the_identity_of_the_run_as_it_is() -> None:
    cell, other = (compose_cell(["model=tiny", "task=rte", "train.lr_multiplier=4"]) for _ in range(2))
    assert cell.basis
    assert cell.identity == other.identity
    assert cell.sha == other.sha
