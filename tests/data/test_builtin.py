"""The built-in texts: format of the hub, the same everywhere, no leak into validation, no shortcut that solves a task."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from builtin_text.glue import SPLITS, generate

from mtlora.base.errors import UserError
from mtlora.base.paths import REPOSITORY

COLUMNS = {
    "cola": ["sentence", "label", "idx"],
    "sst2": ["sentence", "label", "idx"],
    "mrpc": ["sentence1", "sentence2", "label", "idx"],
    "stsb": ["sentence1", "sentence2", "label", "idx"],
    "qqp": ["question1", "question2", "label", "idx"],
    "mnli": ["premise", "hypothesis", "label", "idx"],
    "qnli": ["question", "sentence", "label", "idx"],
    "rte": ["sentence1", "sentence2", "label", "idx"],
}
CLASSES = {"cola": 2, "sst2": 2, "mrpc": 2, "qqp": 2, "mnli": 3, "qnli": 2, "rte": 2}
EVERY_SPLIT = [(task, split) for task, splits in SPLITS.items() for split in splits]
Row = dict[str, str | int | float]

# Digests of the content of all splits. A change of the texts changes every figure measured on them: measure again, then update.
GOLDEN: dict[str, str] = {  # a change here changes every figure measured on the built-in texts
    "cola": "a95beea3a2fcaa18",
    "sst2": "5fdebc3957208836",
    "mrpc": "4da5a1b30a5613bb",
    "stsb": "a12772387863505d",
    "qqp": "9e6217a5bd4c9503",
    "mnli": "2fb0a1e1203161ee",
    "qnli": "19513ac9f732b164",
    "rte": "e4cc015261c9b80c",
}

_DIGESTS = """
import hashlib, json
from builtin_text.glue import SPLITS, generate
for task, splits in SPLITS.items():
    rows = [generate(task, split) for split in splits]
    print(task, hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16])
"""


def texts(task: str, row: Row) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in COLUMNS[task][:-2])


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def digest(task: str) -> str:
    rows = [generate(task, split) for split in SPLITS[task]]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def test_tasks_and_splits() -> None:
    mnli = ("train", "validation_matched", "validation_mismatched")
    assert {task: mnli if task == "mnli" else ("train", "validation") for task in COLUMNS} == SPLITS


@pytest.mark.parametrize(("task", "split"), EVERY_SPLIT)
def test_format_of_the_hub(task: str, split: str) -> None:
    rows = generate(task, split)
    assert [row["idx"] for row in rows] == list(range(len(rows)))
    for row in rows:
        assert list(row) == COLUMNS[task]
        for text in texts(task, row):
            assert text == text.strip()
            assert re.fullmatch(r"[A-Za-z0-9' ,-]+[.?]?", text)
            assert 3 <= len(text.split()) <= 20
            assert "  " not in text
        label = row["label"]
        if task == "stsb":
            assert isinstance(label, float)
            assert 0 <= label <= 5
            assert round(label * 5) == pytest.approx(label * 5)
        else:
            assert type(label) is int
            assert 0 <= label < CLASSES[task]


@pytest.mark.parametrize("task", SPLITS)
def test_content_is_fixed(task: str) -> None:
    assert digest(task) == digest(task) == GOLDEN[task]


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_content_does_not_depend_on_the_hash_seed(hash_seed: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _DIGESTS],
        cwd=REPOSITORY / "tools",
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert dict(line.split() for line in run.stdout.splitlines()) == GOLDEN


@pytest.mark.parametrize(("task", "split"), EVERY_SPLIT)
def test_rows_are_distinct_and_not_shared_with_train(task: str, split: str) -> None:
    rows = [texts(task, row) for row in generate(task, split)]
    assert len(set(rows)) == len(rows)
    if split != "train":
        train = {frozenset(texts(task, row)) for row in generate(task, "train")}
        assert not train & {frozenset(row) for row in rows}


@pytest.mark.parametrize("task", ["cola", "sst2", "mrpc", "stsb", "rte", "mnli"])
def test_validation_has_no_premise_of_train(task: str) -> None:
    """Not even the first sentence of a pair, or the sentence of a single one, was seen in training."""
    train = {texts(task, row)[0] for row in generate(task, "train")}
    for split in SPLITS[task][1:]:
        shared = [row for row in generate(task, split) if texts(task, row)[0] in train]
        assert not shared


@pytest.mark.parametrize(("task", "split"), [(task, split) for task, split in EVERY_SPLIT if task != "stsb"])
def test_class_balance(task: str, split: str) -> None:
    rows = generate(task, split)
    shares = {label: count / len(rows) for label, count in Counter(row["label"] for row in rows).items()}
    assert set(shares) == set(range(CLASSES[task]))
    if task == "cola":
        assert 0.55 < shares[1] < 0.7
    else:
        even = 1 / CLASSES[task]
        assert all(abs(share - even) < 0.1 for share in shares.values())


def test_similarity_covers_the_scale() -> None:
    for split in SPLITS["stsb"]:
        levels = Counter(round(float(row["label"])) for row in generate("stsb", split))
        total = sum(levels.values())
        assert all(levels[level] >= 0.05 * total for level in range(6))


def test_mismatched_split_is_another_genre() -> None:
    """Most content words of the mismatched premises do not occur in training; those of the matched ones all do."""
    train = set().union(*(words(str(row["premise"])) for row in generate("mnli", "train")))
    for split, low, high in (("validation_matched", 0.0, 0.02), ("validation_mismatched", 0.4, 1.0)):
        found = set().union(*(words(str(row["premise"])) for row in generate("mnli", split)))
        assert low <= len(found - train) / len(found) <= high


def best_threshold(values: list[float], positive: list[bool]) -> float:
    """The best accuracy of a rule "value >= t" or "value < t"."""
    ordered = sorted(zip(values, positive, strict=True))
    correct = best = sum(positive)  # all predicted positive
    worst = best
    for index, (value, is_positive) in enumerate(ordered):
        correct += -1 if is_positive else 1
        if index + 1 == len(ordered) or ordered[index + 1][0] != value:
            best, worst = max(best, correct), min(worst, correct)
    return max(best, len(ordered) - worst) / len(ordered)


def length(task: str, row: Row) -> float:
    return len(" ".join(texts(task, row)))


def overlap(task: str, row: Row) -> float:
    """Share of the words of both texts that occur in both (0 for single sentences, which have one text)."""
    first, *rest = [words(text) for text in texts(task, row)]
    return len(first & rest[0]) / len(first | rest[0]) if rest else 0.0


@pytest.mark.parametrize("surface", [length, overlap])
@pytest.mark.parametrize("task", CLASSES)
def test_no_surface_statistic_solves_a_task(task: str, surface) -> None:
    """Length or word overlap alone, with the best threshold, gains little over the share of the class.

    The threshold is chosen on the rows themselves, about 760 a task, which adds up to 3 points.
    """
    rows = [row for split in SPLITS[task] for row in generate(task, split)]
    values = [surface(task, row) for row in rows]
    for label in range(CLASSES[task]):
        positive = [row["label"] == label for row in rows]
        share = sum(positive) / len(rows)
        gain = best_threshold(values, positive) - max(share, 1 - share)
        assert gain < 0.18, f"{task}, class {label}: {gain:.3f}"


def test_best_threshold_finds_a_perfect_rule_and_its_reverse() -> None:
    assert best_threshold([1.0, 2.0, 3.0, 4.0], [False, False, True, True]) == 1.0
    assert best_threshold([1.0, 2.0, 3.0, 4.0], [True, True, False, False]) == 1.0
    assert best_threshold([1.0, 1.0, 1.0, 1.0], [True, True, True, False]) == 0.75


@pytest.mark.parametrize(
    ("task", "split", "named"),
    [
        ("wnli", "train", ["wnli", "cola", "rte"]),
        ("rte", "test", ["test", "train", "validation"]),
        ("mnli", "validation", ["validation_matched", "validation_mismatched"]),
        ("cola", "validation_matched", ["validation_matched", "train, validation"]),
    ],
)
def test_unknown_task_or_split(task: str, split: str, named: list[str]) -> None:
    with pytest.raises(UserError) as error:
        generate(task, split)
    message = str(error.value)
    assert "\n" not in message
    assert all(name in message for name in named)
