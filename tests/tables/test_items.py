"""Intervals and tests over test items, against sacrebleu, scikit-learn, scipy and enumeration."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.record_files import make_record, save_record
from helpers.texts import REFERENCES, TEXTS, dart_plan, save_texts
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats
from sklearn import metrics

from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import make_plan
from mtlora.records.collect import collect, keep_details
from mtlora.score.sums import SCORES, bleu_counts, item_counts
from mtlora.tables.evidence import load_evidence
from mtlora.tables.items import Counted, exchange_p, interval
from mtlora.tables.statistics import paired_difference
from mtlora.tables.view import View
from mtlora.tables.write import all_tables

ORACLES = {
    "accuracy": metrics.accuracy_score,
    "matthews": metrics.matthews_corrcoef,
    "f1": metrics.f1_score,
    "pearson": lambda y, x: stats.pearsonr(x, y).statistic,
}


def counted(metric: str, ours: list[np.ndarray], theirs: list[np.ndarray], labels: np.ndarray) -> Counted:
    sides = [np.stack([item_counts(metric, x, labels) for x in side]) for side in (ours, theirs)]
    return Counted(*sides, SCORES[metric])


def texts_p(base: list[str], other: list[str], references: list[list[str]]) -> float:
    sides = [bleu_counts(texts, references)[None] for texts in (other, base)]
    return exchange_p([Counted(*sides, SCORES["bleu"])])


@pytest.mark.parametrize("metric", ORACLES)
def test_scores_from_sums_are_those_of_sklearn_and_scipy(metric: str) -> None:
    random = np.random.default_rng(1)
    for _ in range(5):
        labels = random.integers(0, 2, 60).astype(float)
        answers = labels + random.normal(size=60) if metric == "pearson" else random.integers(0, 2, 60).astype(float)
        found = SCORES[metric](item_counts(metric, answers, labels).sum(0), 60)
        assert float(found) == pytest.approx(ORACLES[metric](labels, answers))
    constant = item_counts(metric, np.ones(60), np.zeros(60)).sum(0)
    assert np.isfinite(SCORES[metric](constant, 60))


def test_bleu_from_sums_is_sacrebleus() -> None:
    metric = BLEU(tokenize="13a", smooth_method="none", force=True, lowercase=True)
    streams = [list(stream) for stream in zip(*REFERENCES, strict=True)]
    expected = metric.corpus_score(TEXTS["shim"], streams).score
    assert float(SCORES["bleu"](bleu_counts(TEXTS["shim"], REFERENCES).sum(0), 40)) == pytest.approx(expected)


def test_the_exchange_test_is_the_paired_permutation_test_over_items() -> None:
    random = np.random.default_rng(2)
    labels = np.ones(12)
    ours, theirs = ([(random.random(12) < share).astype(float) for _ in range(3)] for share in (0.9, 0.5))
    task = counted("accuracy", ours, theirs, labels)
    by_item = (np.mean(ours, 0) - np.mean(theirs, 0)).tolist()  # all seeds of an item are exchanged together
    sums = [
        abs(sum(s * v for s, v in zip(signs, by_item, strict=True))) for signs in itertools.product((1, -1), repeat=12)
    ]
    exact = sum(value >= abs(sum(by_item)) - 1e-9 for value in sums) / len(sums)
    assert exchange_p([task]) == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 2000) ** 0.5)
    assert exchange_p([counted("accuracy", ours, ours, labels)]) == 1.0


def test_the_interval_has_the_width_of_items_and_seeds() -> None:
    random = np.random.default_rng(3)
    labels = np.ones(400)
    theirs = [(random.random(400) < 0.6).astype(float)]
    ours = [np.where(random.random(400) < 0.2, 1 - theirs[0], theirs[0])]
    task = counted("accuracy", ours, theirs, labels)
    d = ours[0] - theirs[0]
    error = d.std() / 20  # the standard error of a mean over items
    assert interval(paired_difference([{0: float(d.mean())}]), [task]) is None, "one seed says nothing about others"
    sure = paired_difference([{s: float(d.mean()) for s in range(50)}])  # no spread over seeds: only the items vary
    half = stats.t.ppf(0.975, 49) * error
    assert interval(sure, [task]) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.15 * error)
    both = interval(sure, [task] * 2)  # the mean of two tasks, whose errors add as squares
    assert both is not None
    assert both[1] - both[0] == pytest.approx(2 * half / 2**0.5, rel=0.1)
    # all items alike within a seed, so only the seeds vary: the t interval
    shift = 0.1 * random.normal(size=8)
    same = Counted(np.stack([np.full((400, 1), 0.5 + s) for s in shift]), np.full((8, 400, 1), 0.5), SCORES["accuracy"])
    seeds = paired_difference([dict(enumerate(shift))])
    assert interval(seeds, [same]) == pytest.approx(stats.t.interval(0.95, 7, shift.mean(), stats.sem(shift)))
    both = interval(seeds, [task])  # never narrower than either
    half = stats.t.ppf(0.975, 7) * (stats.sem(shift) ** 2 + error**2) ** 0.5
    assert both is not None
    assert both[1] - both[0] == pytest.approx(2 * half, rel=0.05)


def test_texts_are_compared_as_by_sacrebleu(tmp_path: Path) -> None:
    save_texts(tmp_path)
    view = View(dart_plan(), load_evidence(tmp_path))
    (found,), problems = view.items
    metric = BLEU(
        tokenize="13a", smooth_method="none", force=True, references=list(map(list, zip(*REFERENCES, strict=True)))
    )
    systems = [("lora", TEXTS["none"]), ("shim", TEXTS["shim"])]
    _, scores = PairedTest(systems, {"BLEU": metric}, None, "ar", n_samples=2000)()
    assert problems == []
    expected = scores["BLEU"][1].p_value
    assert 0 < expected < 1
    assert found.p == pytest.approx(expected, abs=6 * (expected * (1 - expected) / 2000) ** 0.5)
    assert texts_p(TEXTS["shim"], TEXTS["shim"], REFERENCES) == 1.0
    one_word = ["the place", *TEXTS["shim"][1:]]
    assert texts_p(TEXTS["shim"], one_word, REFERENCES) == 1.0, "one item that differs can be exchanged in one way"
    junk = [["a b c", "d e f", "g h i"], ["j k l", "m n o", "p q r"]]
    assert texts_p(*junk, [["s t u v w"]] * 3) == 1.0, "two systems of BLEU 0 do not differ"
    rest = [["right words here now", *(f"{x} b c d" for x in x20)] for x20 in (["x"] * 20, ["y"] * 20)]
    rest[1][0] = "wrong"
    truth = [["right words here now"], *[["a b c d"]] * 20]
    assert texts_p(*rest, truth) == 1.0, "every exchange leaves the same difference: one item decides it"
    assert any(table.name == "dart-items" for table in all_tables(view))


def test_texts_of_other_contexts_are_not_compared(tmp_path: Path) -> None:
    save_texts(tmp_path, other_context=True)
    found, problems = View(dart_plan(), load_evidence(tmp_path)).items
    assert found == []
    assert "the runs on dart did not all answer the same items" in problems[0]
    first, *rest = sorted(tmp_path.rglob("predictions.jsonl"))
    first.unlink()
    assert "not beside each record" in View(dart_plan(), load_evidence(tmp_path)).items[1][0]
    for path in rest:  # a file of records alone: nothing to compare, and no problem
        path.unlink()
    assert View(dart_plan(), load_evidence(tmp_path)).items == ([], [])


@pytest.mark.parametrize("damage", [None, "prediction", "split"])
def test_classes_are_compared_over_tasks(damage: str | None, tmp_path: Path) -> None:
    plan = make_plan(load_experiment("glue"), ["model=tiny", "task=rte,cola", "transform=lora,shim", "seed=range(0,5)"])
    random = np.random.default_rng(4)
    labels = {"rte": random.integers(0, 2, 50), "cola": random.integers(0, 2, 80)}
    scores: dict[tuple[str, str], list[float]] = {}
    for cell in plan.cells:
        task, method = cell.config.task.name, cell.config.adapter.method
        y = labels[task]
        x = np.where(random.random(len(y)) < (0.1 if method == "shim" else 0.3), 1 - y, y)
        name = "matthews" if task == "cola" else "accuracy"
        value = float(ORACLES[name](y, x))
        scores.setdefault((task, method), []).append(100 * value)
        folder = save_record(tmp_path, make_record(cell, {(name, "validation"): (value, value)})).parent
        rows = [
            {"split": "validation", "index": i, "prediction": int(a), "label": int(b)}
            for i, (a, b) in enumerate(zip(x, y, strict=True))
        ]
        if damage and cell is plan.cells[3]:
            rows[7].pop(damage)
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, problems = View(plan, load_evidence(tmp_path)).items
    if damage:
        assert (found, len(problems)) == ([], 1)
        assert "predictions.jsonl:8: not a row" in problems[0]
        return
    (item,) = found
    means = {key: np.mean(values) for key, values in scores.items()}
    expected = np.mean([means[task, "shim"] - means[task, "lora"] for task in labels])
    assert item.difference == pytest.approx(expected)
    assert item.interval is not None
    assert item.interval[0] < expected < item.interval[1]
    assert item.p < 0.01
    assert problems == []
    study = tmp_path / "study"
    keep_details(tmp_path, study / "runs")
    (study / "records.jsonl").write_text("".join(f"{line}\n" for line in collect(tmp_path)))
    assert View(plan, load_evidence(study / "records.jsonl")).items == (found, []), "a study keeps the answers"


def test_equal_answers_are_no_certainty(tmp_path: Path) -> None:
    plan = make_plan(load_experiment("glue"), ["model=tiny", "task=rte", "transform=lora,shim", "seed=0,1"])
    for cell in plan.cells:
        record = make_record(cell, {("accuracy", "validation"): (0.5, 0.5)})
        record.provenance["rows"] = {"validation": 50}
        folder = save_record(tmp_path, record).parent
        rows = [{"split": "validation", "index": i, "prediction": 1, "label": i % 2} for i in range(50)]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    view = View(plan, load_evidence(tmp_path))
    ((item,), problems) = view.items
    (own,) = [c.difference for c in view.comparisons if c.head]
    assert own is not None
    assert problems == []
    assert item.interval == own.interval(0.95)
    assert item.interval[1] > 0


def test_a_study_keeps_the_geometry_but_no_texts(tmp_path: Path) -> None:
    save_texts(tmp_path / "runs")
    for path in list((tmp_path / "runs").rglob("record.json")):
        (path.parent / "geometry.jsonl").write_text("{}\n")
    for _ in range(2):
        keep_details(tmp_path / "runs", tmp_path / "study")
        files = {path.name: path.read_bytes() for path in (tmp_path / "study").rglob("*.*") if path.is_file()}
        assert set(files) == {"geometry.jsonl.gz"}
        assert gzip.decompress(files["geometry.jsonl.gz"]) == b"{}\n"
