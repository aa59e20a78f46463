"""MTLoRA against LoRA on hand-made records: every expected number is computed here from the chosen scores."""

import dataclasses
import itertools
import random
import statistics
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from helpers.record_files import make_record
from scipy import stats

from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.records.record import RunRecord
from mtlora.tables.claims import claim_verdicts
from mtlora.tables.comparison import Comparison, against, compare, comparison_frame, headlines, needed
from mtlora.tables.differences import protocols
from mtlora.tables.evidence import Evidence
from mtlora.tables.view import View

Score = Callable[[str, str, int], float | None]  # task, method, seed -> raw value, None for a missing run
TASKS = ("rte", "stsb")


@lru_cache
def plan_of(experiment: str, *overrides: str) -> Plan:
    return make_plan(load_experiment(experiment), overrides)


def tiny(seeds: int = 6) -> Plan:
    return plan_of("glue", "model=tiny", "task=rte,stsb", f"seed=range(0,{seeds})")


def records_of(plan: Plan, score: Score) -> dict[str, RunRecord]:
    """Every column of a task gets the same value."""
    found = {}
    for cell in plan.cells:
        value = score(cell.config.task.name, cell.config.adapter.method, cell.config.seed)
        if value is not None:
            columns = [c for c in plan.experiment.columns if c.task == cell.config.task.name]
            found[cell.sha] = make_record(cell, {(c.metric, c.split): (value, value) for c in columns})
    return found


def noisy(task: str, method: str, seed: int) -> float:
    gain = {"lora": 0.0, "shim": 0.02, "icfm": -0.01, "ctcm": 0.0, "dtsm": 0.005}[method]
    return 0.6 + gain + random.Random(f"{task}{method}{seed}").uniform(-0.01, 0.01)


def only(found: list[Comparison], method: str, task: str) -> Comparison:
    (one,) = [c for c in found if (c.row.method, c.task, c.contrast) == (method, task, "")]
    return one


def percent_differences(score: Score, task: str, method: str, seeds: int) -> list[float]:
    return [100 * (score(task, method, s) - score(task, "lora", s)) for s in range(seeds)]  # type: ignore[operator]


def exact_p(terms: list[float]) -> float:
    sums = [
        abs(sum(s * t for s, t in zip(signs, terms, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(terms))
    ]
    return sum(value >= abs(sum(terms)) - 1e-9 for value in sums) / len(sums)


def test_a_task_is_the_paired_t_test_and_the_exact_sign_flips() -> None:
    found = compare(tiny(), records_of(tiny(), noisy))
    for task, method in itertools.product(TASKS, ("shim", "icfm", "ctcm", "dtsm")):
        values = percent_differences(noisy, task, method, 6)
        c = only(found, method, task)
        assert c.difference is not None
        assert c.difference.mean == pytest.approx(statistics.mean(values))
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert c.difference.interval() == pytest.approx((expected.low, expected.high))
        assert c.difference.p == pytest.approx(exact_p(values))
        assert (c.difference.pairs, c.seeds, c.family) == (6, 6, 4)


def test_the_suite_is_the_mean_over_tasks_with_its_own_degrees_of_freedom() -> None:
    found = compare(tiny(), records_of(tiny(), noisy))
    c = only(found, "shim", "average")
    values = [percent_differences(noisy, task, "shim", 6) for task in TASKS]
    assert c.difference is not None
    assert c.difference.mean == pytest.approx(statistics.mean(statistics.mean(v) for v in values))
    parts = [statistics.variance(v) / 6 / 4 for v in values]
    error, dof = sum(parts) ** 0.5, sum(parts) ** 2 / sum(p**2 / 5 for p in parts)
    half = stats.t.ppf(0.975, dof) * error
    assert c.difference.interval() == pytest.approx((c.difference.mean - half, c.difference.mean + half))
    assert c.difference.p == pytest.approx(exact_p([v / 12 for task in values for v in task]))
    assert c.difference.pairs == 12


def test_holm_over_the_structures() -> None:
    found = headlines(compare(tiny(), records_of(tiny(), noisy)))
    p = sorted(((c.difference.p, c) for c in found if c.difference), key=lambda item: item[0])
    highest = 0.0
    for rank, (raw, c) in enumerate(p):
        highest = max(highest, min(1.0, (4 - rank) * raw))
        assert c.p_holm == pytest.approx(highest)
    assert [c.row.method for c in found if c.verdict == "better"] == ["shim"]


def test_a_structure_without_runs_still_counts_in_the_family() -> None:
    records = records_of(tiny(), lambda t, m, s: noisy(t, m, s) if m in ("lora", "shim") else None)
    c = only(compare(tiny(), records), "shim", "average")
    assert c.difference is not None
    assert c.p_holm == pytest.approx(4 * c.difference.p)
    assert only(compare(tiny(), records), "icfm", "average").verdict == "no data"


def test_holes() -> None:
    def holed(task: str, method: str, seed: int) -> float | None:
        return None if (task, method) == ("stsb", "shim") and seed > 2 else noisy(task, method, seed)

    c = only(compare(tiny(), records_of(tiny(), holed)), "shim", "average")
    values = [percent_differences(noisy, task, "shim", 3) for task in TASKS]  # only seeds that have every task
    assert c.difference is not None
    assert c.difference.mean == pytest.approx(statistics.mean(statistics.mean(v) for v in values))
    assert (c.difference.sizes, c.seeds, len(c.pairs)) == ((3, 3), 3, 6)
    rte = only(compare(tiny(), records_of(tiny(), holed)), "shim", "rte")
    assert (rte.seeds, rte.verdict) == (6, only(compare(tiny(), records_of(tiny(), noisy)), "shim", "rte").verdict)
    gone = records_of(tiny(), lambda t, m, s: None if (t, m) == ("stsb", "shim") else noisy(t, m, s))
    assert only(compare(tiny(), gone), "shim", "average").difference is None, "a suite is all of its tasks"
    assert only(compare(tiny(), gone), "shim", "rte").difference is not None


def shifted(gain: float, spread: float) -> Score:
    """All structures differ from LoRA by `gain` points, alternating by `spread`."""
    return lambda t, m, s: 0.6 + (m != "lora") * (gain + spread * (-1) ** s) / 100


@pytest.mark.parametrize(
    ("gain", "spread", "verdict"),
    [
        (1.0, 0.3, "better"),
        (-1.0, 0.3, "worse"),
        (0.0, 0.3, "no difference larger than 0.5"),
        (0.0, 3.0, "undecided"),
        (0.45, 0.3, "better"),  # first match: it is surely above 0
    ],
)
def test_verdicts_on_these_runs(gain: float, spread: float, verdict: str) -> None:
    plan = tiny(10)
    found = headlines(compare(plan, records_of(plan, shifted(gain, spread))))
    assert [c.verdict_text for c in found] == [verdict] * 4


def test_few_seeds_of_one_task_decide_nothing() -> None:
    plan = plan_of("glue", "model=tiny", "task=rte", "seed=range(0,5)")
    found = headlines(compare(plan, records_of(plan, shifted(2.0, 0.01))))
    for c in found:
        assert c.difference is not None
        assert c.difference.interval()[0] > 0  # type: ignore[index]
        assert (c.difference.p, c.verdict) == (0.0625, "undecided")
        assert needed(c, 1.0) == "about 8 seeds would decide"


def test_lower_is_better_for_ter() -> None:
    plan = plan_of("dart", "model=tiny_gpt2", "transform=lora,shim", "seed=range(0,8)")
    records = records_of(plan, lambda t, m, s: 0.5 + s / 100 - 0.1 * (m == "shim"))
    verdicts = {c.metric: c.verdict for c in compare(plan, records)}
    assert verdicts == {"bleu": "worse", "meteor": "worse", "ter": "better"}


def test_contrasts_compare_a_method_with_itself() -> None:
    plan = plan_of("targets", "model=tiny", "task=cola", "transform=lora,shim", "seed=range(0,3)")
    gains = {"qv": 0.0, "official": 0.03, "all": 0.05}
    records = {}
    for cell in plan.cells:
        value = (
            0.5
            + cell.config.seed / 10
            + gains[cell.config.targets] * (2 if cell.config.adapter.method == "shim" else 1)
        )
        records[cell.sha] = make_record(cell, {("matthews", "validation"): (value, value)})
    found = [c for c in compare(plan, records) if c.task == "average"]
    means = {
        (c.contrast, c.row.method, c.row.targets, c.base.targets): c.difference.mean for c in found if c.difference
    }
    assert means == pytest.approx(
        {
            ("", "shim", "qv", "qv"): 0.0,
            ("", "shim", "official", "official"): 3.0,
            ("", "shim", "all", "all"): 5.0,
            ("targets", "lora", "official", "qv"): 3.0,
            ("targets", "shim", "official", "qv"): 6.0,
            ("targets", "lora", "all", "qv"): 5.0,
            ("targets", "shim", "all", "qv"): 10.0,
        }
    )
    frame = comparison_frame(plan, found)
    assert set(frame["against"]) == {"lora", "targets=qv"}


def paper(*more: str) -> Plan:
    return plan_of("glue", "profile=paper", "transform=lora,shim", "seed=range(0,3)", *more)


def test_tasks_that_start_from_one_adapter_are_one_group() -> None:
    plan = paper("task=cola,mnli,rte")  # rte starts from the MNLI run of its seed
    scores = {"cola": (1.0, 2.0, 4.0), "mnli": (0.0, 1.0, 0.5), "rte": (3.0, 2.0, 1.0)}  # gains in points
    records = records_of(plan, lambda t, m, s: 0.6 + (m != "lora") * scores[t][s] / 100)
    c = only(compare(plan, records), "shim", "average")
    family = [statistics.mean(pair) for pair in zip(scores["mnli"], scores["rte"], strict=True)]
    parts = [statistics.variance(scores["cola"]) / 3 / 9, statistics.variance(family) / 3 * 4 / 9]
    assert c.difference is not None
    assert c.difference.sizes == (3, 3)
    assert c.difference.mean == pytest.approx(statistics.mean(statistics.mean(v) for v in scores.values()))
    assert c.difference.error == pytest.approx(sum(parts) ** 0.5)
    assert c.difference.p == pytest.approx(exact_p([*(v / 9 for v in scores["cola"]), *(v * 2 / 9 for v in family)]))


@pytest.mark.parametrize(
    ("gain", "spread", "verdict"),
    [
        (1.2, 0.3, "reproduced"),
        (0.6, 0.05, "smaller than claimed"),
        (-0.6, 0.1, "contradicted"),
        (0.0, 0.1, "contradicted"),
        (0.4, 3.0, "inconclusive"),
    ],
)
def test_verdicts_on_the_claim(gain: float, spread: float, verdict: str) -> None:
    plan = paper()
    records = records_of(plan, shifted(gain, spread))
    (found,) = claim_verdicts(plan, records, compare(plan, records))
    assert found.comparison is not None
    assert (found.claim.difference, found.comparison.row.method, found.verdict) == (1.0, "shim", verdict)
    assert bool(found.why) == (verdict == "inconclusive")
    # five groups (MNLI, MRPC, RTE and STS-B are one) of three seeds; with equal gains everywhere the groups are alike
    values = np.array([gain + spread * (-1) ** s for s in range(3)])
    weights = np.array([4, 1, 1, 1, 1]) / 8
    error = values.std(ddof=1) / 3**0.5 * (weights**2).sum() ** 0.5
    dof = (weights**2).sum() ** 2 / ((weights**4).sum() / 2)
    mean = values.mean()
    low, high = stats.t.interval(0.95, dof, mean, error)
    inside = max(abs(bound) for bound in stats.t.interval(0.90, dof, mean, error)) < 0.5
    sure = exact_p([w * v / 3 for w in weights for v in values]) <= 0.05
    if sure and low > 0:
        expected = "reproduced" if high >= 1 else "smaller than claimed"
    else:
        expected = "contradicted" if (sure and high < 0) or inside else "inconclusive"
    assert verdict == expected


@pytest.mark.parametrize(
    "plan",
    [tiny, lambda: paper("train.epochs=1"), lambda: paper("task=rte"), lambda: paper("rank=r2", "task=cola,rte")],
)
def test_a_claim_is_not_tested_on_other_runs(plan: Callable[[], Plan]) -> None:
    records = records_of(plan(), shifted(1.2, 0.3))
    found = claim_verdicts(plan(), records, compare(plan(), records))
    assert [(v.verdict, v.comparison) for v in found] == [("not tested here", None)]


def test_the_frame_names_the_runs() -> None:
    records = records_of(tiny(), noisy)
    frame = comparison_frame(tiny(), compare(tiny(), records))
    assert len(frame) == 3 * 4
    row = frame[(frame["task"] == "average") & (frame["method"] == "shim")].iloc[0]
    expected = {r.run_id for r in records.values() if r.transform in ("lora", "shim")}
    assert set(row["run_ids"].split(" ")) == expected
    assert (row["against"], row["pairs"], row["seeds"], row["family"]) == ("lora", 12, 6, 4)


def test_nothing_at_all() -> None:
    found = compare(tiny(), {})
    assert {c.verdict for c in found} == {"no data"}
    assert comparison_frame(tiny(), found).empty


def test_leaving_out_structures_makes_nothing_significant() -> None:
    plan = plan_of("glue", "model=tiny", "task=rte,stsb", "transform=lora,shim", "seed=range(0,6)")
    c = only(compare(plan, records_of(plan, noisy)), "shim", "rte")
    assert c.difference is not None
    assert (c.family, c.p_holm) == (4, min(1.0, 4 * c.difference.p))


@pytest.mark.parametrize("methods", ["lora,shim", "lora,shim,icfm,ctcm,dtsm"])
@pytest.mark.parametrize(
    ("experiment", "sizes"),
    [
        ("targets", {"official": 5, "all": 5}),
        (  # LoRA has no T to start at I; only SHIM and DTSM can start at 0
            "init",
            {
                "adapter.init_weights=identity_t": 4,
                "adapter.init_weights=identity": 5,
                "adapter.init_weights=zero_t": 2,
            },
        ),
    ],
)
def test_leaving_out_methods_makes_no_contrast_significant(
    experiment: str, sizes: dict[str, int], methods: str
) -> None:
    plan = plan_of(experiment, "model=tiny", "task=cola", f"transform={methods}", "seed=range(0,3)")
    found = [c for c in compare(plan, records_of(plan, noisy)) if c.contrast and c.task == "average"]
    shim = {c.row.variant or c.row.targets: c for c in found if c.row.method == "shim"}
    assert {name: c.family for name, c in shim.items()} == sizes
    if methods == "lora,shim" and experiment == "init":
        c = shim["adapter.init_weights=zero_t"]  # alone here, one of two in the experiment
        assert c.difference is not None
        assert c.p_holm == min(1.0, 2 * c.difference.p)


def test_dependence_is_that_of_the_row_and_contrasts_of_any_axis() -> None:
    plan = plan_of("glue", "profile=paper", "task=mrpc,rte", "transform=lora,shim", "init_from=none,mnli", "seed=0,1,2")
    records = records_of(plan, noisy)
    sizes = {c.row.variant: c.difference.sizes for c in compare(plan, records) if c.task == "average" and c.difference}
    assert sizes == {"init_from=none": (3, 3), "init_from=mnli": (3,)}
    experiment = dataclasses.replace(load_experiment("rank"), contrasts=["rank"])
    ranks = make_plan(experiment, ["model=tiny", "task=cola", "transform=lora,shim", "rank=r2,r8", "seed=0,1"])
    found = [c for c in compare(ranks, records_of(ranks, noisy)) if c.contrast and c.task == "cola"]
    assert [(c.row.method, c.row.rank, c.base.rank, against_name) for c in found for against_name in [against(c)]] == [
        ("lora", 8, 2, "rank=2"),
        ("shim", 8, 2, "rank=2"),
    ]


def test_a_headline_that_was_not_run() -> None:
    experiment = load_experiment("glue")
    headline = dataclasses.replace(experiment.headline, task="cola", split="validation", metric="matthews")
    experiment = dataclasses.replace(experiment, average=False, headline=headline)
    plan = make_plan(experiment, ["model=tiny", "task=rte", "transform=lora,shim", "seed=0,1"])
    found = compare(plan, records_of(plan, noisy))
    assert headlines(found) == []
    assert len(found) == 1


def by_name(task: str, method: str, seed: int) -> float:
    return 0.6 + random.Random(f"{task}{method}{seed}").uniform(-0.05, 0.05)


@pytest.mark.parametrize("methods", [None, "lora,shim,shim_frozen"])
def test_each_structure_is_compared_with_its_frozen_control(methods: str | None) -> None:
    more = [] if methods is None else [f"transform={methods}"]
    plan = plan_of("controls", "model=tiny", "task=cola", "seed=range(0,3)", *more)
    found = [c for c in compare(plan, records_of(plan, by_name)) if c.contrast and c.task == "cola"]
    names = {"shim"} if methods else {"shim", "icfm", "ctcm", "dtsm"}
    assert {(c.row.method, c.base.method, against(c)) for c in found} == {
        (m, f"{m}_frozen", f"{m}_frozen") for m in names
    }
    assert {c.family for c in found} == {4}, "all controls of the experiment count"
    for c in found:
        values = [100 * (by_name("cola", c.row.method, s) - by_name("cola", c.base.method, s)) for s in range(3)]
        assert c.difference is not None
        assert c.difference.mean == pytest.approx(statistics.mean(values))
    to_lora = [c for c in compare(plan, records_of(plan, by_name)) if not c.contrast and c.task == "cola"]
    assert len(to_lora) == (2 if methods else 9)
    assert {c.family for c in to_lora} == {9}


def test_protocols_are_compared_each_with_its_own_lora_and_stand_side_by_side() -> None:
    given = ("model=tiny", "task=rte,stsb", "transform=lora,shim", "seed=range(0,4)", "protocol=published,matched")
    plan = plan_of("glue", *given)
    shas = {(c.config.adapter.method, c.config.protocol, c.config.task.name, c.config.seed): c.sha for c in plan.cells}
    gains = {"published": 0.0, "matched": 0.03}
    records = {}
    for cell in plan.cells:
        c = cell.config
        gain = gains[c.protocol] if c.adapter.method == "shim" else 0.0
        value = 0.6 + gain + 0.001 * c.seed * (c.adapter.method == "shim")
        columns = [column for column in plan.experiment.columns if column.task == c.task.name]
        records[cell.sha] = make_record(cell, {(column.metric, column.split): (value, value) for column in columns})
    assert len(records) == len(set(shas.values())) == 3 * 2 * 4  # LoRA's runs serve both
    found = {c.row.protocol: c for c in headlines(compare(plan, records))}
    assert set(found) == set(gains)
    for protocol, c in found.items():
        assert c.base.protocol == protocol
        assert c.difference is not None
        assert c.difference.mean == pytest.approx(100 * (gains[protocol] + 0.0015))
        assert {run for pair in c.pairs for run in pair.runs} == {
            records[sha].run_id for (_, p, _, _), sha in shas.items() if p == protocol
        }
    table = protocols(View(plan, Evidence(records)))
    assert table is not None
    assert table.header == ["Method", "published", "matched"]
    ((name, published, matched),) = [[cell.text for cell in row] for row in table.rows]
    assert name == "MTLoRA SHIM"
    assert published.startswith("+0.15 [")
    assert matched.startswith("+3.15 [")
    assert published.endswith((str(found["published"].verdict_text),))
    one = make_plan(load_experiment("glue"), given[:-1])
    assert protocols(View(one, Evidence(records))) is None
