"""The trials of learning rates: the estimator of the best score, the groups of a tuning file, and the table of choices."""

import itertools
import math
import statistics
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from helpers.tuning_files import SEEDS, make_tuning, write_tuning

from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.plan.tuning import Tuning
from mtlora.tables.formats import markdown
from mtlora.tables.layout import TextTable
from mtlora.tables.tuning import choices_table, expected_best, read_tuning, task_groups
from mtlora.tune import groups

FACTORS = [0.25, 0.5, 1.0, 2.0]
METHODS = ["lora", "shim"]


@lru_cache
def plan_of(experiment: str, *overrides: str) -> Plan:
    return make_plan(load_experiment(experiment), ["model=tiny", *overrides])


def tiny_plan() -> Plan:
    return plan_of("glue", "task=rte,stsb", "transform=lora,shim", "seed=0")


def score(method: str, task: str, factor: float, seed: int) -> float | None:
    """LoRA is best at 1, SHIM at 2; on RTE the seed 101 of LoRA diverges at 2."""
    if (method, task, factor, seed) == ("lora", "rte", 2.0, 101):
        return None
    best = 0.0 if method == "lora" else 1.0
    return 60 + 10 * (task == "stsb") - 4 * (math.log2(factor) - best) ** 2 + (seed - 100)


def tuning_of(by: str = "suite", **more: object) -> Tuning:
    tasks = [["rte", "stsb"]] if by == "suite" else [["rte"], ["stsb"]]
    return make_tuning(METHODS, tasks, FACTORS, score, majority=50.0, **more)  # type: ignore[arg-type]


def test_expected_best_by_hand() -> None:
    # Pairs of 1, 4, 10: the best is 4, 10, 10.
    assert expected_best([10.0, 1.0, 4.0]) == pytest.approx([5.0, 8.0, 10.0])
    assert expected_best([7.0]) == [7.0]
    assert expected_best([]) == []


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_expected_best_is_the_mean_over_all_subsets(n: int) -> None:
    scores = list(np.random.default_rng(n).normal(70, 5, n).round(0))  # some are equal
    found = expected_best(scores)
    assert found[0] == pytest.approx(statistics.mean(scores))
    assert found[-1] == max(scores)
    brute = [statistics.mean(map(max, itertools.combinations(scores, k))) for k in range(1, n + 1)]
    assert found == pytest.approx(brute)


def plug_in(scores: np.ndarray, k: int) -> np.ndarray:
    """The expected maximum under the empirical distribution, (..., n): draws with replacement."""
    n = scores.shape[-1]
    share = np.arange(n + 1) / n
    return np.asarray(np.sort(scores) @ np.diff(share**k))


def test_expected_best_is_unbiased_and_the_plug_in_estimate_is_not() -> None:
    n, repeats = 8, 4000
    draws = np.random.default_rng(0).uniform(size=(repeats, n))
    ours = np.array([expected_best(list(row)) for row in draws])
    for k in range(1, n + 1):
        truth = k / (k + 1)  # the expected maximum of k uniform draws
        error = ours[:, k - 1].std() / math.sqrt(repeats)
        assert abs(ours[:, k - 1].mean() - truth) < 4 * error
        if k > 1:
            assert plug_in(draws, k).mean() < truth - 10 * error
    # It is linear in the order statistics, whose means are i / (n + 1): no bias at all.
    assert expected_best([i / (n + 1) for i in range(1, n + 1)]) == pytest.approx(
        [k / (k + 1) for k in range(1, n + 1)]
    )


def test_a_score_that_is_not_finite_counts_only_where_it_can_be_the_best() -> None:
    assert expected_best([-math.inf, -2.0, -1.0]) == pytest.approx([-math.inf, -4 / 3, -1.0])
    assert expected_best([-math.inf] * 2) == [-math.inf] * 2


def test_groups_of_a_file() -> None:
    (group,) = task_groups(tuning_of())
    assert (group.tasks, group.setting, list(group.choices)) == (("rte", "stsb"), "", METHODS)
    assert [choice.multiplier for choice in group.choices.values()] == [1.0, 2.0]
    assert dict(group.by_factor("shim")) == pytest.approx(
        {f: 65.5 - 4 * (math.log2(f) - 1) ** 2 for f in FACTORS}  # (60 + 70) / 2, and 0.5 for the mean of the seeds
    )
    assert dict(group.by_factor("lora", "rte"))[2.0] == pytest.approx((56 + 50) / 2), "the diverged one counts"
    seeds = group.by_seed("lora")
    assert list(map(tuple, seeds[["multiplier", "seed"]].to_numpy())) == list(itertools.product(FACTORS, SEEDS))
    last = seeds[seeds["multiplier"] == 2.0]
    assert list(last["score"]) == [(56 + 66) / 2, (50 + 67) / 2]
    assert list(last["diverged"]) == [False, True]
    assert not group.by_seed("lora", "stsb")["diverged"].any()
    assert [group.tasks for group in task_groups(tuning_of("task"))] == [("rte",), ("stsb",)]


def test_settings_do_not_mix() -> None:
    tuning = tuning_of(settings=("rank=r2", "rank=r8"))
    for trial in tuning.trials:
        trial.score += 5 * (trial.setting == "rank=r8")
    small, large = task_groups(tuning)
    assert (small.setting, large.setting) == ("rank=r2", "rank=r8")
    assert large.by_factor("shim")[2.0] == small.by_factor("shim")[2.0] + 5
    table = choices_table(tiny_plan(), tuning)
    assert table.header[:3] == ["Method", "Tasks", "Setting"]
    assert [row[2].text for row in table.rows] == ["rank=r2"] * 2 + ["rank=r8"] * 2


def test_tune_names_the_settings_of_a_sweep() -> None:
    plan = plan_of(
        "rank",
        "task=cola",
        "transform=lora",
        "rank=r2,r8",
        "data.split=tune",
        "train.lr_multiplier=1.0",
        "seed=100,101",
    )
    assert [group.setting for group in groups(plan, "suite", FACTORS)] == ["rank=r2", "rank=r8"]
    plan = plan_of("glue", "task=cola,rte", "transform=lora,shim", "data.split=tune", "train.lr_multiplier=1.0")
    assert [group.setting for group in groups(plan, "task", FACTORS)] == ["", ""]


def column(table: TextTable, title: str) -> list[str]:
    return [row[table.header.index(title)].text for row in table.rows]


def test_table_of_choices() -> None:
    table = choices_table(tiny_plan(), tuning_of(shares={"lora": 1.0, "shim": 0.79}))
    assert table.header == ["Method", "Tasks", *(f"x {f:g}" for f in FACTORS), "Stability", "Trials", "Diverged"]
    assert column(table, "Method") == ["LoRA", "MTLoRA SHIM"]
    assert column(table, "Tasks") == ["rte, stsb"] * 2
    assert column(table, "x 1") == ["65.50", "61.50"]
    bold = [[title for title, cell in zip(table.header, row, strict=True) if cell.bold] for row in table.rows]
    assert bold == [["x 1"], ["x 2"]]
    assert column(table, "Stability") == ["100%", "79%"]
    assert column(table, "Trials") == ["16", "16"]
    assert column(table, "Diverged") == ["1 of 16", "0 of 16"]
    assert table.rows[0][-1].runs == ("rte-lora-x2-seed101",)
    assert table.rows[0][4].runs == tuple(f"{task}-lora-x1-seed{seed}" for task in ("rte", "stsb") for seed in SEEDS)
    sure, diverged = table.notes
    assert sure == "MTLoRA SHIM on rte, stsb: only 79.0% of the resamples choose x 2, 21.0% choose x 1."
    assert "score of the majority answer" in diverged
    assert "seeds 100 to 101; 32 trials (runs)" in table.caption
    assert "**65.50**" in markdown(table)


def test_no_column_without_a_divergence() -> None:
    table = choices_table(tiny_plan(), make_tuning(METHODS, [["rte"]], FACTORS, lambda *a: 60 + a[2]))
    assert "Diverged" not in table.header
    assert table.notes == []


def test_a_loss_has_three_digits() -> None:
    plan = make_plan(load_experiment("webnlg"), ["model=tiny_gpt2", "seed=0"])
    table = choices_table(plan, make_tuning(METHODS, [["webnlg"]], FACTORS, lambda *a: -1.2344 - abs(a[2] - 1)))
    assert column(table, "x 1") == ["−1.234"] * 2
    assert "minus the validation loss" in table.caption


def test_a_loss_that_was_never_finite() -> None:
    tuning = make_tuning(METHODS, [["rte", "stsb"]], FACTORS, score, majority=-math.inf)
    table = choices_table(tiny_plan(), tuning)
    assert column(table, "x 2")[0] == "diverged"
    assert table.notes == ["A factor of which a trial diverged has no mean loss, and is not chosen."]


@pytest.mark.parametrize(
    "text",
    [None, "", "a: [", "- 1", "experiment: glue", "experiment: glue\nprofile: mini\nby: suite\ngrid: []\nseeds: []"],
)
def test_without_a_readable_file_there_is_nothing_to_say(text: str | None, tmp_path: Path) -> None:
    plan = plan_of("glue", "task=rte", "transform=lora", "seed=0", f"results={tmp_path}")
    if text is not None:
        (tmp_path / "tuned").mkdir()
        (tmp_path / "tuned" / "glue.yaml").write_text(text)
    assert read_tuning(plan) is None
    write_tuning(plan, tuning_of())
    assert read_tuning(plan) == tuning_of()
