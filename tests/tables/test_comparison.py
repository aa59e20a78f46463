"""MTLoRA against LoRA on hand-made records: every expected number is computed here from the chosen scores."""

import dataclasses
import itertools
import random
import re
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
from mtlora.tables.compare import compare
from mtlora.tables.comparison import Comparison, against, comparison_frame, headlines, reach
from mtlora.tables.differences import differences, protocols, spread
from mtlora.tables.evidence import Evidence
from mtlora.tables.view import View

pytestmark = pytest.mark.xdist_group("comparison")  # one process composes each plan, once

Score = Callable[[str, str, int], float | None]  # task, method, seed -> raw value, None for a missing run
TASKS = ("rte", "stsb")
ALL_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")


@lru_cache
def plan_of(experiment: str, *overrides: str) -> Plan:
    return make_plan(load_experiment(experiment), overrides)


def tiny(seeds: int = 6) -> Plan:
    return plan_of("glue", "model=tiny", "task=rte,stsb", f"seed=range(0,{seeds})")


def records_of(plan: Plan, score: Score, baseline: float = 0.0) -> dict[str, RunRecord]:
    """Every column of a task gets the same value."""
    found = {}
    for cell in plan.cells:
        value = score(cell.config.task.name, cell.config.adapter.method, cell.config.seed)
        if value is not None:
            columns = [c for c in plan.experiment.columns if c.task == cell.config.task.name]
            found[cell.sha] = make_record(cell, {(c.metric, c.split): (value, value) for c in columns}, baseline)
    return found


def noisy(task: str, method: str, seed: int) -> float:
    gain = {"lora": 0.0, "shim": 0.02, "icfm": -0.01, "ctcm": 0.0, "dtsm": 0.005}[method]
    return 0.6 + gain + random.Random(f"{task}{method}{seed}").uniform(-0.01, 0.01)


def only(found: list[Comparison], method: str, task: str) -> Comparison:
    (one,) = [c for c in found if (c.row.method, c.task, c.contrast) == (method, task, "")]
    return one


def percent_differences(score: Score, task: str, method: str, seeds: int) -> list[float]:
    return [100 * (score(task, method, s) - score(task, "lora", s)) for s in range(seeds)]  # type: ignore[operator]


def test_a_task_is_the_paired_t_test_without_a_verdict() -> None:
    found = compare(tiny(), records_of(tiny(), noisy))
    for task, method in itertools.product(TASKS, ("shim", "icfm", "ctcm", "dtsm")):
        values = percent_differences(noisy, task, method, 6)
        c = only(found, method, task)
        assert c.difference is not None
        assert c.difference.mean == pytest.approx(statistics.mean(values))
        expected = stats.ttest_1samp(values, 0)
        assert c.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
        assert c.difference.p == pytest.approx(expected.pvalue)
        assert (len(c.pairs), c.seeds, c.family, c.verdict, c.verdict_text) == (6, 6, 4, None, "")


def test_the_suite_is_the_mean_over_tasks_with_its_own_degrees_of_freedom() -> None:
    found = compare(tiny(), records_of(tiny(), noisy))
    c = only(found, "shim", "average")
    values = [percent_differences(noisy, task, "shim", 6) for task in TASKS]
    assert c.difference is not None
    assert c.difference.mean == pytest.approx(statistics.mean(statistics.mean(v) for v in values))
    parts = [statistics.variance(v) / 6 / 4 for v in values]
    error, dof = sum(parts) ** 0.5, sum(parts) ** 2 / sum(p**2 / 5 for p in parts)
    half = stats.t.ppf(1 - 0.05 / 4 / 2, dof) * error  # four structures are declared
    assert c.interval == pytest.approx((c.difference.mean - half, c.difference.mean + half))
    assert (c.level, len(c.pairs)) == (1 - 0.05 / 4, 12)


def test_the_level_accounts_for_the_structures() -> None:
    found = headlines(compare(tiny(), records_of(tiny(), noisy)))
    assert {c.level for c in found} == {1 - 0.05 / 4}
    assert [c.row.method for c in found if c.verdict == "better"] == ["shim"]
    for c in found:
        assert c.interval is not None
        assert (c.verdict == "better") == (c.interval[0] > 0)


def test_a_structure_without_runs_still_counts_in_the_family() -> None:
    records = records_of(tiny(), lambda t, m, s: noisy(t, m, s) if m in ("lora", "shim") else None)
    c = only(compare(tiny(), records), "shim", "average")
    assert c.difference is not None
    assert c.level == 1 - 0.05 / 4
    assert only(compare(tiny(), records), "icfm", "average").verdict == "no data"


def test_holes() -> None:
    def holed(task: str, method: str, seed: int) -> float | None:
        return None if (task, method) == ("stsb", "shim") and seed > 2 else noisy(task, method, seed)

    c = only(compare(tiny(), records_of(tiny(), holed)), "shim", "average")
    values = [percent_differences(noisy, task, "shim", n) for task, n in (("rte", 6), ("stsb", 3))]
    assert c.difference is not None
    assert c.difference.mean == pytest.approx(statistics.mean(statistics.mean(v) for v in values))
    assert (c.difference.sizes, c.seeds, len(c.pairs)) == ((6, 3), 3, 9), "each task uses its own seeds"
    assert c.verdict_text == "too few seeds (3 of at least 5)"
    rte = only(compare(tiny(), records_of(tiny(), holed)), "shim", "rte")
    assert rte == only(compare(tiny(), records_of(tiny(), noisy)), "shim", "rte")
    gone = records_of(tiny(), lambda t, m, s: None if (t, m) == ("stsb", "shim") else noisy(t, m, s))
    assert only(compare(tiny(), gone), "shim", "average").difference is None, "a suite is all of its tasks"
    assert only(compare(tiny(), gone), "shim", "rte").difference is not None


def shifted(gain: float, spread: float) -> Score:
    """All structures differ from LoRA by `gain` points, alternating by `spread`."""
    return lambda t, m, s: 0.6 + (m != "lora") * (gain + spread * (-1) ** s) / 100


@pytest.mark.parametrize(
    ("gain", "spread", "verdict"),
    [
        (1.0, 0.3, "better, by more than 0.5"),
        (0.65, 0.3, "better"),
        (0.25, 0.1, "better, by less than 0.5"),
        (-1.0, 0.3, "worse, by more than 0.5"),
        (-0.25, 0.1, "worse, by less than 0.5"),
        (0.0, 0.3, "no difference larger than 0.5"),
        (0.0, 3.0, "undecided"),
    ],
)
def test_verdicts_on_these_runs(gain: float, spread: float, verdict: str) -> None:
    plan = tiny(10)
    found = headlines(compare(plan, records_of(plan, shifted(gain, spread))))
    assert [c.verdict_text for c in found] == [verdict] * 4


def test_four_seeds_give_an_estimate_and_five_a_verdict() -> None:
    for seeds, verdict in ((4, "too few seeds (4 of at least 5)"), (5, "better, by more than 0.5")):
        plan = plan_of("glue", "model=tiny", "task=rte", f"seed=range(0,{seeds})")
        for c in headlines(compare(plan, records_of(plan, shifted(2.0, 0.01)))):
            assert c.interval is not None
            assert c.interval[0] > 0
            assert c.verdict_text == verdict


def test_metrics_of_one_task_have_their_own_scale_of_an_item() -> None:
    plan = plan_of("dart", "model=tiny_gpt2", "transform=lora,shim", "seed=range(0,6)")
    records = records_of(plan, lambda t, m, s: 0.4 + 0.001 * (m == "shim") + 0.0005 * (s % 2) * (m == "shim"))
    for record in records.values():
        record.provenance["rows"] = {"test": 100}
    found = {c.metric: c.difference for c in compare(plan, records)}
    spread = statistics.stdev([0.0005 * (s % 2) for s in range(6)])
    for metric, floor in (("bleu", 100 / 100), ("meteor", 1 / 100), ("ter", 0.0)):
        difference = found[metric]
        assert difference is not None
        assert difference.error == pytest.approx(max(spread, floor) / 6**0.5)


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
    assert c.difference.sizes == (3, 3, 3)
    assert c.difference.mean == pytest.approx(statistics.mean(statistics.mean(v) for v in scores.values()))
    assert c.difference.error == pytest.approx(sum(parts) ** 0.5)
    assert c.difference.dof == pytest.approx(sum(parts) ** 2 / sum(part**2 / 2 for part in parts))


@pytest.mark.parametrize(
    ("gain", "spread", "verdict"),
    [
        (1.2, 0.3, "at least half of the claim"),
        (0.6, 0.05, "at least half of the claim"),
        (0.3, 0.05, "a gain, smaller than claimed"),
        (0.8, 0.9, "a gain, size open"),
        (0.0, 0.1, "practically none"),
        (-2.0, 0.4, "a loss"),
        (0.0, 1.1, "claimed size excluded, sign open"),
        (0.4, 3.0, "inconclusive"),
    ],
)
def test_verdicts_on_the_claim(gain: float, spread: float, verdict: str) -> None:
    plan = paper("seed=range(0,6)")
    records = records_of(plan, shifted(gain, spread))
    (found,) = claim_verdicts(plan, records, compare(plan, records))
    assert found.comparison is not None
    assert (found.claim.difference, found.comparison.row.method) == (1.0, "shim")
    # five groups (MNLI, MRPC, RTE and STS-B are one) of six seeds; with equal gains everywhere the groups are alike
    values = np.array([gain + spread * (-1) ** s for s in range(6)])
    weights = np.array([4, 1, 1, 1, 1]) / 8
    error = values.std(ddof=1) / 6**0.5 * (weights**2).sum() ** 0.5
    dof = (weights**2).sum() ** 2 / ((weights**4).sum() / 5)
    low, high = stats.t.interval(1 - 0.05 / 4, dof, values.mean(), error)
    inside = max(abs(bound) for bound in stats.t.interval(1 - 2 * 0.05 / 4, dof, values.mean(), error)) < 0.5
    if low > 0:
        expected = (
            "at least half of the claim"
            if low >= 0.5
            else f"a gain, {'smaller than claimed' if high < 1 else 'size open'}"
        )
    elif inside:
        expected = "practically none"
    elif high < 0:
        expected = "a loss"
    else:
        expected = "claimed size excluded, sign open" if high < 1 else "inconclusive"
    assert found.verdict == expected == verdict


def test_a_claim_is_judged_at_both_epochs_and_beside_the_other_protocols() -> None:
    plan = paper("seed=range(0,6)", "protocol=published,matched")
    records = records_of(plan, shifted(0.0, 0.1))
    for cell in plan.cells:
        for metric in records[cell.sha].metrics:
            if metric["selection"] == "best" and cell.config.adapter.method != "lora":
                metric["value"] += 0.012
    (found,) = claim_verdicts(plan, records, compare(plan, records))
    assert (found.last, found.as_published) == ("practically none", "at least half of the claim")
    assert found.verdict == "practically none (best epoch: at least half of the claim)"
    assert [other.row.protocol for other in found.others] == ["matched"]
    assert found.others[0].verdict == "no difference"


def test_the_family_of_a_claim_counts_every_claim() -> None:
    experiment = dataclasses.replace(load_experiment("webnlg"), axes={**load_experiment("webnlg").axes})
    claims = [dataclasses.replace(claim, model="tiny_gpt2") for claim in experiment.claims]
    plan = make_plan(dataclasses.replace(experiment, claims=claims), ["model=tiny_gpt2", "seed=range(0,5)"])
    assert len(claims) == 2
    records = records_of(plan, lambda t, m, s: 30 + s % 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtlora.tables.claims.comparable", lambda cell, record: True)
        found = claim_verdicts(plan, records, compare(plan, records))
    assert len(found) == 2 * 4
    assert {v.level for v in found} == {1 - 0.05 / 8}


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
    assert (row["against"], row["pairs"], row["seeds"], row["family"], row["level"]) == ("lora", 12, 6, 4, 1 - 0.05 / 4)


@pytest.mark.parametrize("starts", ["official,identity_t,identity,zero_t", "identity,zero_t,identity_t,official"])
def test_a_start_of_t_is_compared_with_the_lora_that_has_none(starts: str) -> None:
    given = ["transform=lora,shim", "adapter.alpha=8,16", f"adapter.init_weights={starts}", "seed=range(0,3)"]
    plan = plan_of("init", "model=tiny", "task=cola", *given)
    found = [c for c in compare(plan, records_of(plan, noisy)) if not c.contrast and c.task == "average"]
    # T = I with PEFT's A is also a setting of LoRA, which has that A; the other two have the official A.
    bases = {"official": "official", "identity_t": "official", "identity": "identity", "zero_t": "official"}
    pairs = {settings(c.row.variant): settings(c.base.variant) for c in found}
    assert pairs == {(alpha, start): (alpha, base) for alpha in ("8", "16") for start, base in bases.items()}
    named = {settings(c.row.variant): against(c) for c in found}
    assert named["8", "official"] == "lora"
    assert named["8", "identity_t"] == "lora adapter.init_weights=official adapter.alpha=8"


def settings(variant: str) -> tuple[str, str]:
    values = dict(re.findall(r"adapter\.(\w+)=(\w+)", variant))
    return values["alpha"], values["init_weights"]


def test_nothing_at_all() -> None:
    found = compare(tiny(), {})
    assert {c.verdict for c in headlines(found)} == {"no data"}
    assert comparison_frame(tiny(), found).empty


def test_leaving_out_structures_makes_nothing_significant() -> None:
    plan = plan_of("glue", "model=tiny", "task=rte,stsb", "transform=lora,shim", "seed=range(0,6)")
    c = only(compare(plan, records_of(plan, noisy)), "shim", "average")
    assert (c.family, c.level) == (4, 1 - 0.05 / 4)


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
        assert c.level == 1 - 0.05 / 2


def test_dependence_is_that_of_the_row_and_contrasts_of_any_axis() -> None:
    plan = plan_of("glue", "profile=paper", "task=mrpc,rte", "transform=lora,shim", "init_from=none,mnli", "seed=0,1,2")
    records = records_of(plan, noisy)
    dof = {c.row.variant: c.difference.dof for c in compare(plan, records) if c.task == "average" and c.difference}
    assert dof["init_from=mnli"] == 2, "one group of three seeds"
    assert 2 < (dof["init_from=none"] or 0) <= 4
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
    controls = [(m, f"{m}_frozen") for m in names]
    controls += [] if methods else [("ctcm", "lora_scaled"), ("dtsm", "shim_fast_t")]
    assert {(c.row.method, c.base.method, against(c)) for c in found} == {(m, base, base) for m, base in controls}
    assert {c.family for c in found} == {6}, "all controls of the experiment count"
    for c in found:
        values = [100 * (by_name("cola", c.row.method, s) - by_name("cola", c.base.method, s)) for s in range(3)]
        assert c.difference is not None
        assert c.difference.mean == pytest.approx(statistics.mean(values))
    to_lora = [c for c in compare(plan, records_of(plan, by_name)) if not c.contrast and c.task == "cola"]
    assert len(to_lora) == (2 if methods else 10)
    assert {c.family for c in to_lora} == {10}


def test_a_control_that_the_command_adds_counts() -> None:
    given = ["profile=study", "model=tiny", "data.source=builtin", "task=cola", "seed=10,11,12"]
    plan = plan_of("controls", *given, "transform=lora,shim,shim_frozen,icfm,icfm_frozen,dtsm,dtsm_frozen")
    found = {c.row.method: c for c in compare(plan, records_of(plan, by_name)) if c.contrast and c.task == "cola"}
    assert set(found) == {"shim", "icfm", "dtsm"}
    # Declared there: SHIM's control, both of CTCM, the fast SHIM of DTSM; added: those of ICFM, and DTSM with T frozen.
    assert {c.family for c in found.values()} == {6}


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
    several = differences(View(plan, Evidence(records)), contrasts=False)
    assert several is not None
    assert "98.75%" in several.caption
    assert "nominally in 95% of such experiments all declared intervals of a setting (4) contain" in several.caption
    one = make_plan(load_experiment("glue"), given[:-1])
    alone = differences(View(one, Evidence(records)), contrasts=False)
    assert alone is not None
    assert "all declared intervals (4) contain" in alone.caption
    assert protocols(View(one, Evidence(records))) is None


def seeds(n: int, *more: str) -> Plan:
    return plan_of("glue", "model=tiny", "transform=lora,shim", f"seed=range(0,{n})", *more)


def verdict_of(plan: Plan, score: Score, baseline: float = 0.0) -> str:
    records = records_of(plan, score, baseline)
    (c,) = headlines(compare(plan, records))
    return c.verdict_text


def test_differences_between_tasks_are_no_noise() -> None:
    gains = {"cola": 12.0, "rte": -8.0}
    rng = {(t, s): random.Random(f"{t}{s}").gauss(0, 0.4) for t in ALL_TASKS for s in range(5)}
    plan = seeds(5)
    assert verdict_of(plan, lambda t, m, s: 0.6 + (m != "lora") * (gains.get(t, 0.0) + rng[t, s]) / 100) == "better"


def test_a_small_sure_gain_is_called_small() -> None:
    plan = seeds(5, "task=rte")
    gains = (0.06, 0.07, 0.08, 0.07, 0.07)
    assert verdict_of(plan, lambda t, m, s: 0.6 + (m != "lora") * gains[s] / 100) == "better, by less than 0.5"


def test_runs_that_fail_block_the_verdict_or_count_as_the_majority_answer() -> None:
    plan = seeds(8, "task=rte")
    score = shifted(0.84, 0.1)
    records = records_of(plan, score, baseline=0.5)
    failing = {
        c.sha: dataclasses.replace(records.pop(c.sha), status="failed", diverged=True, metrics=[])
        for c in plan.cells
        if c.config.adapter.method == "shim" and c.config.seed in (1, 4, 6)
    }
    view = View(plan, Evidence(records | failing))
    (c,) = headlines(view.comparisons)
    assert (c.verdict, c.verdict_text) == ("fails", "fails in 3 of 8 runs")
    assert c.difference is not None
    assert c.difference.sizes == (5,)
    table = differences(view, contrasts=False)
    assert table is not None
    assert any("fails in 3 of 8 runs; where both train +0.8" in note for note in table.notes)
    counting = dataclasses.replace(plan, experiment=dataclasses.replace(plan.experiment, failures="majority"))
    (c,) = headlines(View(counting, Evidence(records | failing)).comparisons)
    lost = [100 * (0.5 - 0.6)] * 3
    kept = [0.84 + 0.1 * (-1) ** s for s in range(8) if s not in (1, 4, 6)]
    assert c.difference is not None
    assert c.difference.mean == pytest.approx(statistics.mean(lost + kept))
    assert c.verdict == "undecided"


def test_one_run_of_forty_that_fails_blocks_the_verdict() -> None:
    plan = seeds(5)
    records = records_of(plan, shifted(1.0, 0.1))
    one = next(c for c in plan.cells if c.config.adapter.method == "lora")
    failing = {one.sha: dataclasses.replace(records.pop(one.sha), status="failed", diverged=True, metrics=[])}
    (c,) = headlines(View(plan, Evidence(records | failing)).comparisons)
    assert c.verdict_text == "lora fails in 1 of 40 runs"


def test_equal_scores_prove_nothing_where_items_are_few() -> None:
    plan = seeds(5, "task=rte")
    for items, verdict in ((277, "undecided"), (100_000, "no difference larger than 0.5")):
        records = records_of(plan, lambda t, m, s: 0.6)
        for record in records.values():
            record.provenance["rows"] = {"validation": items}
        (c,) = headlines(compare(plan, records))
        assert c.verdict_text == verdict


def test_seven_tied_tasks() -> None:
    def score(task: str, method: str, seed: int) -> float:
        return 0.6 + (task == "rte") * (method != "lora") * (4.0 + seed / 10) / 100

    assert verdict_of(seeds(5), score) == "better"  # 0.53 on average; the interval reaches below the margin
    assert verdict_of(seeds(5), lambda t, m, s: 0.6 + (t == "rte") * (m != "lora") * (s - 2) / 1000) == (
        "no difference larger than 0.5"
    )


def test_at_the_ceiling_all_are_equal() -> None:
    assert verdict_of(seeds(5), lambda t, m, s: 1.0) == "no difference larger than 0.5"


def test_one_seed_decides_nothing() -> None:
    assert verdict_of(seeds(1), shifted(3.0, 0.0)) == "too few seeds (1 of at least 5)"


def test_tasks_that_no_method_has_learned_do_not_make_methods_equal() -> None:
    half = ALL_TASKS[:4]

    def score(task: str, method: str, seed: int) -> float:
        gain = 0.0 if task in half else (0.3 + 1.2 * (-1) ** seed) / 100
        return 0.5 + (task not in half) * 0.2 + (method != "lora") * gain

    plan = seeds(6)
    records = records_of(plan, score, baseline=0.5)
    (c,) = headlines(compare(plan, records))
    assert c.head is not None
    assert c.head.dull == tuple(column.task for column in plan.columns if column.task in half)
    assert c.difference is not None
    assert c.difference.is_within(0.5, 0.05 / 4)
    assert c.verdict == "undecided", "half of the tasks are ties of two methods that have learned nothing"
    values = [0.3 + 1.2 * (-1) ** s for s in range(6)]
    assert c.head.informative is not None
    assert c.head.informative.mean == pytest.approx(statistics.mean(values))
    assert c.head.informative.error == pytest.approx(statistics.stdev(values) / 6**0.5 / 4**0.5)
    assert verdict_of(plan, score, baseline=0.0) == "no difference larger than 0.5"
    assert verdict_of(plan, lambda t, m, s: 0.5, baseline=0.5) == "undecided"


def test_a_method_below_the_majority_on_one_task_is_judged_and_named() -> None:
    plan = seeds(6)
    records = records_of(plan, lambda t, m, s: 0.45 + s / 1000 if (t, m) == ("rte", "shim") else 0.7, baseline=0.5)
    view = View(plan, Evidence(records))
    (c,) = headlines(view.comparisons)
    assert c.head is not None
    assert (c.head.dull, c.verdict) == (("rte",), "worse")
    table = differences(view, contrasts=False)
    assert table is not None
    assert any("on rte one of the two does not beat the majority answer" in note for note in table.notes)
    assert "98.75%" in table.caption
    assert "beat the majority answer, at the level of the verdict" in table.caption
    informative = table.rows[0][table.header.index("Informative tasks")].text
    assert c.head.informative is not None
    low, high = c.head.informative.interval(1 - 0.05 / 4) or (0.0, 0.0)
    assert informative.endswith(f"[{low:.2f}, {high:.2f}]")


def test_collapsed_runs_are_named() -> None:
    plan = seeds(6, "task=rte")
    records = records_of(plan, lambda t, m, s: 0.2 if (m, s) == ("shim", 4) else noisy(t, m, s))
    table = differences(View(plan, Evidence(records)), contrasts=False)
    assert table is not None
    assert sum("at seed 4" in note and "deviations from the median" in note for note in table.notes) == 1
    assert not any("at seed 3" in note for note in table.notes)


def test_how_the_difference_varies() -> None:
    plan = seeds(6, "task=rte,stsb,cola")
    records = records_of(plan, lambda t, m, s: noisy(t, m, s) + (t == "cola") * (m != "lora") * 0.05)
    table = spread(View(plan, Evidence(records)))
    assert table is not None
    (row,) = table.rows
    cells = dict(zip(table.header, row, strict=True))
    pairs = {t: np.array([[100 * noisy(t, m, s) for m in ("shim", "lora")] for s in range(6)]) for t in ("rte", "stsb")}
    pairs["cola"] = np.array(
        [[100 * (noisy("cola", m, s) + 0.05 * (m != "lora")) for m in ("shim", "lora")] for s in range(6)]
    )
    differences_ = {t: v[:, 0] - v[:, 1] for t, v in pairs.items()}
    assert cells["Largest"].text.startswith("cola +")
    assert cells["Smallest"].value == pytest.approx(min(v.mean() for v in differences_.values()))
    assert cells["p, tasks alike"].value == pytest.approx(
        stats.f_oneway(*differences_.values(), equal_var=False).pvalue
    )
    won = sum((v > 0).sum() for v in differences_.values())
    assert cells["Pairs won"].text == f"{won} of 18"
    centred = np.concatenate([v - v.mean(0) for v in pairs.values()])
    assert cells["Correlation"].value == pytest.approx(np.corrcoef(centred.T)[0, 1])


def test_the_plan_says_what_its_seeds_can_see() -> None:
    plan = seeds(8, "task=rte")
    few = {sha: r for sha, r in records_of(plan, noisy).items() if r.seed < 4}
    text = reach(plan, compare(plan, few))
    values = percent_differences(noisy, "rte", "shim", 4)
    error = statistics.stdev(values) / 8**0.5
    size = error * (stats.t.ppf(1 - 0.05 / 4 / 2, 7) + stats.t.ppf(0.8, 7))
    assert text is not None
    assert text.startswith(f"8 seeds can detect a difference to LoRA of {size:.2g} points, ")
    assert "once two seeds of each task are finished" in (reach(plan, compare(plan, {})) or "")
    assert reach(seeds(2), []) is None
    assert (reach(seeds(2), compare(seeds(2), {})) or "").startswith("2 seeds give estimates only")
