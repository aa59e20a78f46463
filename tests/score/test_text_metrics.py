"""Text metrics against sacrebleu's command, the METEOR jar, pyter, nltk and small cases counted by hand."""

import gzip
import json
import logging
import math
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mtlora.score.compute
from mtlora.base.errors import UserError
from mtlora.base.paths import REPOSITORY
from mtlora.config.metrics import METRICS
from mtlora.score import text
from mtlora.score.compute import TOKENISED, compute_texts

pytest.importorskip("sacrebleu", reason="the extra `metrics` is not installed")
pytest.importorskip("pyter", reason="the extra `metrics` is not installed")
pytest.importorskip("rapidfuzz", reason="the extra `metrics` is not installed")
pycocoevalcap = pytest.importorskip("pycocoevalcap", reason="the extra `metrics` is not installed")

WEBNLG = Path(REPOSITORY).parent / "shared" / "data" / "webnlg_2017" / "dev.jsonl.gz"
java = pytest.mark.skipif(not text.java_works(), reason="Java is missing or does not start")
webnlg = pytest.mark.skipif(not WEBNLG.is_file(), reason="no WebNLG files in ../shared/data")
WORDS = ["the", "café", "is", "near", "bürger", ",", ".", "a", "pub"]
word_lists = st.lists(st.sampled_from(WORDS), max_size=9)


def made_up(count: int, seed: int, references: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Sentences of few words, so that shifts and repeated n-grams are common; 1 to 4 references."""
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(4, 14)))

    hypotheses = [sentence() for _ in range(count)]
    groups = [
        [sentence() for _ in range(references or rng.randint(1, 4))] + ([hypothesis] if rng.random() < 0.1 else [])
        for hypothesis in hypotheses
    ]
    return hypotheses, groups


@pytest.fixture(scope="module")
def real() -> tuple[list[str], list[list[str]]]:
    """The first text of 200 WebNLG entries against the others, untreated."""
    entries = [json.loads(line) for line in gzip.decompress(WEBNLG.read_bytes()).decode().splitlines()]
    texts = [[item["text"] for item in entry["lexicalisations"]] for entry in entries]
    texts = [group for group in texts if len(group) > 1][:200]
    return [group[0] for group in texts], [group[1:] for group in texts]


# ---- treatment of the texts


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  The Café's open_air: 3.5 £!  ", "the café ' s open_air : 3 . 5 £ !"),
        ("One.<|endoftext|> Two", "one ."),
        ("One\nline.\n\nTwo", "one line ."),
        ("\n\nTwo", ""),  # cut first, then stripped, as published
        ("One\u00a0\t  two", "one two"),
        ("", ""),
    ],
)
def test_normalise(raw: str, expected: str) -> None:
    assert text.normalise(raw) == expected


def test_trim_keeps_case_and_punctuation() -> None:
    assert text.trim(" The Mill,  £20-25.\nNear it <|endoftext|>x\n\ny") == "The Mill,  £20-25.\nNear it"


@given(st.text(max_size=60))
def test_normalise_is_the_published_expression(raw: str) -> None:
    cut = raw.split("<|endoftext|>")[0].split("\n\n")[0].strip().lower()
    assert text.normalise(raw) == " ".join(" ".join(re.split(r"(\W)", cut)).split())


# ---- BLEU


def test_bleu_of_unequally_many_references_by_hand() -> None:
    # Text 1: "a b c d e" against "a b c d x" and "e a b c d e": 1-grams 5/5, 2-grams ab bc cd de 4/4, 3-grams 3/3,
    # 4-grams 2/2 from the second; closest length 5. Text 2: "a b c d" against "a b d c x" only: 4/4, 1/3, 0/2, 0/1.
    hypotheses, references = ["a b c d e", "a b c d"], [["a b c d x", "e a b c d e"], ["a b d c x"]]
    precisions = [9 / 9, 5 / 7, 3 / 5, 2 / 3]
    expected = 100 * math.exp(1 - 10 / 9) * math.prod(precisions) ** 0.25
    assert text.bleu(hypotheses, references) == pytest.approx(expected, abs=1e-9)
    assert text.bleu(["a b c"], [["x y z"]]) == 0.0


def test_bleu_is_that_of_the_command(tmp_path: Path) -> None:
    hypotheses, references = made_up(60, seed=1, references=3)
    references = [group[:3] for group in references]
    for number, column in enumerate([hypotheses, *map(list, zip(*references, strict=True))]):
        (tmp_path / f"{number}.txt").write_text("\n".join(column) + "\n")
    files = [str(tmp_path / f"{number}.txt") for number in range(4)]
    command = [sys.executable, "-m", "sacrebleu", *files[1:], "-i", files[0], "-m", "bleu", "-s", "none"]
    command += ["--force", "-b", "-w", "10"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert text.bleu(hypotheses, references) == pytest.approx(float(found), abs=1e-9)


def test_bleu_ignores_case_and_normalised_text_has_none() -> None:
    from sacrebleu.metrics import BLEU

    hypotheses, references = made_up(40, seed=2)
    assert text.bleu([t.upper() for t in hypotheses], references) == text.bleu(hypotheses, references)
    treated = [text.normalise(t.title()) for t in hypotheses]
    plain = BLEU(tokenize="13a", smooth_method="none", force=True)
    first = [group[0] for group in references]
    assert plain.corpus_score(treated, [first]).score == text.bleu(treated, [[t] for t in first])


# ---- NIST


def test_nist_by_hand() -> None:
    # Six reference words; "the" twice: log2(6 / 2), "cat" once: log2(6), "the cat": log2(2 / 1). The output's "the"
    # is clipped at 1, the largest count in one reference. Mean reference length 3, as long as the output: no penalty.
    found = text.nist(["The the cat"], [["the cat sat", "a the dog"]])
    assert found == pytest.approx((math.log2(3) + math.log2(6)) / 3 + 1 / 2)
    # 2/3 of the words: one half; "the": log2(3), "cat": log2(3), "the cat": log2(1)
    assert text.nist(["the cat"], [["the cat sat"]]) == pytest.approx(0.5 * math.log2(3))
    assert text.nist(["", "x"], [["the cat sat"], ["a"]]) == 0.0


@pytest.mark.parametrize("seed", [3, 4])
def test_nist_with_one_reference_is_that_of_nltk(seed: int) -> None:
    nltk_nist = pytest.importorskip("nltk.translate.nist_score")
    hypotheses, references = made_up(50, seed=seed)
    references = [group[:1] for group in references]
    expected = nltk_nist.corpus_nist([[group[0].split()] for group in references], [t.split() for t in hypotheses])
    assert text.nist(hypotheses, references) == pytest.approx(expected, rel=1e-12)


# ---- TER


@settings(max_examples=200, deadline=None)
@given(word_lists, word_lists.filter(bool))
def test_edit_rate_is_that_of_pyter(words: list[str], reference: list[str]) -> None:
    import pyter
    from rapidfuzz.distance import Levenshtein

    assert text.edit_rate(words, reference) == pyter.ter(words, reference)
    assert Levenshtein.distance(words, reference) == pyter.edit_distance(words, reference)


def test_edit_rate_of_long_texts() -> None:
    import pyter

    rng = random.Random(5)
    for size in (64, 65, 90):  # 64 is where the bit vectors of the edit distance fill a machine word
        reference = rng.choices([*WORDS, *map(str, range(60))], k=size)
        words = reference[30:] + rng.choices(WORDS, k=5) + reference[:20]
        assert text.edit_rate(words, reference) == pyter.ter(words, reference)


def test_ter_by_hand() -> None:
    # "c d a b" to "a b c d": one shift of two words, 1 / 4; the other reference is further away. "x" to "a b": 2 / 2.
    hypotheses, references = ["c d a b", "x", ""], [["e f g h", "a b c d"], ["a b"], ["a b c"]]
    assert text.ter(hypotheses, references) == pytest.approx((0.25 + 1 + 1) / 3)
    assert text.ter(hypotheses, references, official_off_by_one=True) == pytest.approx((2.25 + 1) / 4)
    assert text.ter(["a b c d e f"], [["a"]]) == 5.0  # not bounded by 1


def test_ter_is_pyter_over_references() -> None:
    import pyter

    hypotheses, references = made_up(80, seed=6)
    best = [min(pyter.ter(h.split(), r.split()) for r in refs) for h, refs in zip(hypotheses, references, strict=True)]
    assert text.ter(hypotheses * 2, references * 2) == pytest.approx(sum(best) / 80, abs=1e-12)


# ---- METEOR


def start_jar(folder: Path, hypotheses: list[str], references: list[list[str]]) -> subprocess.Popen[str]:
    """The METEOR jar at work on files with equally many references a text; it takes seconds to load."""
    (folder / "hyp").write_text("\n".join(hypotheses) + "\n", encoding="utf-8")
    (folder / "ref").write_text("\n".join(r for group in references for r in group) + "\n", encoding="utf-8")
    jar = Path(pycocoevalcap.__path__[0]) / "meteor" / "meteor-1.5.jar"
    command = ["java", "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", str(jar), str(folder / "hyp"), str(folder / "ref")]
    command += ["-l", "en", "-norm", "-r", str(len(references[0]))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@java
def test_meteor_is_that_of_the_jar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hypotheses, references = made_up(40, seed=7, references=2)
    references = [group[:2] for group in references]
    odd = [
        ("the café, near\nBürger King", ["the cafè near", "a café near burger kings"]),
        ("THE INN IS IT", ["the inn is it", "a pub"]),
        ("one ||| two", ["one two", "two"]),
        ("|||", ["a pub", "pubs"]),
        ("", ["a pub", "pubs"]),
        ("rich 𝄞 text \ud800", ["rich texts ||", "€ 20"]),
    ]
    messy = [h for h, _ in odd], [refs for _, refs in odd]
    clean = ["the café, near Bürger King", "THE INN IS IT", "one two", "", "", "rich 𝄞 text ?"]
    with start_jar(tmp_path, hypotheses + clean, references + messy[1]) as process:
        # Neither a locale without UTF-8 makes a difference, nor one where the lower-case I is another letter.
        monkeypatch.setenv("LC_ALL", "C")
        monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr")
        found = text.meteor(hypotheses + messy[0], references + messy[1])
        printed = re.search(r"^Final score:\s+(\S+)$", process.communicate()[0], re.MULTILINE)
    assert printed
    assert found == pytest.approx(float(printed[1]), abs=1e-9)
    assert 0.1 < found < 0.9


def fake_java(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "java").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_failing_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hypotheses, references = made_up(500, seed=8)
    fake_java(tmp_path, monkeypatch, "echo 'Picked up x' >&2; echo 'Error: no heap' >&2; echo ' at main' >&2; exit 3")
    assert not text.java_works()
    for call in (lambda: text.meteor(hypotheses, references), lambda: text.ptb_tokenise(hypotheses)):
        with pytest.raises(UserError, match=r"ended early \(Error: no heap\)"):
            call()
    fake_java(tmp_path, monkeypatch, "read line; echo nonsense; read line; echo nonsense; echo nonsense")
    with pytest.raises(UserError, match=r"METEOR ended early \(no message\)"):
        text.meteor(hypotheses[:1], references[:1])


# ---- coco-caption: tokenizer, ROUGE-L, CIDEr


@java
def test_ptb_tokens() -> None:
    texts = ['The "Mill", near Café\u2028Rouge; it\'s (not) cheap...', "", "A\nB\x85C\rD", "!", ""]
    # Lower case, no punctuation or quotes, one result a text whatever the line breaks. Brackets stay: coco-caption
    # means to drop "-LRB-", but the tokenizer has made it lower case.
    assert text.ptb_tokenise(texts) == ["the mill near café rouge it 's -lrb- not -rrb- cheap", "", "a b c d", "", ""]
    assert text.ptb_tokenise([""]) == [""]


def test_rouge_by_hand() -> None:
    # Longest common subsequence with "a x c" is 2: precision 2/4, recall 2/3; with "a b" 2: precision 2/4, recall 1.
    # The largest of each counts, beta = 1.2: (1 + 1.44) * 1 * 0.5 / (1 + 1.44 * 0.5); the other text has nothing in common.
    expected = 2.44 * 0.5 / (1 + 1.44 * 0.5)
    assert text.rouge_l(["a b c d", "x"], [["a x c", "a b"], ["y"]]) == pytest.approx(expected / 2)


def test_cider_by_hand() -> None:
    # Two texts with no word in common; each n-gram is in one of the two: the same weight log 2 everywhere. Text 1 equals
    # its reference: cosine 1 for n = 1 to 4. Text 2 "e f g h" against "e f g x": 3/4, 2/3, 1/2, 0; equally long.
    expected = 10 * ((1 + 1 + 1 + 1) / 4 + (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4) / 2
    assert text.cider(["a b c d", "e f g h"], [["a b c d"], ["e f g x"]]) == pytest.approx(expected)


# ---- compute_texts


@webnlg
def test_real_texts(real: tuple[list[str], list[list[str]]]) -> None:
    import pyter
    import sacrebleu

    hypotheses, references = real
    found = compute_texts(["bleu", "ter"], "triples", hypotheses, references, "real")
    treated = [text.normalise(t) for t in hypotheses]
    groups = [[text.normalise(t) for t in group] for group in references]
    width = max(map(len, groups))
    # sacrebleu needs no None where a reference is repeated: a repeat changes neither counts nor lengths.
    columns = [[group[i % len(group)] for group in groups] for i in range(width)]
    expected = sacrebleu.corpus_bleu(treated, columns, smooth_method="none", force=True, tokenize="13a").score
    assert found["bleu"] == pytest.approx(expected, abs=1e-9)
    rates = [min(pyter.ter(t.split(), r.split()) for r in g) for t, g in zip(treated[:40], groups[:40], strict=True)]
    assert text.ter(treated[:40], groups[:40]) == pytest.approx(sum(rates) / 40, abs=1e-12)
    assert 20 < found["bleu"] < 70
    assert 0.2 < found["ter"] < 0.8


@java
def test_e2e_texts_are_tokenised_for_the_coco_metrics_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtlora.score.metric import FUNCTIONS

    seen = {}

    def spy(hypotheses: list[str], references: list[list[str]]) -> float:
        seen["meteor"] = (hypotheses, references)
        return 0.5

    monkeypatch.setitem(FUNCTIONS, "meteor", (spy, "string"))
    names = ["bleu", "meteor", "rouge_l", "cider", "nist"]
    raw = ["The Mill, a pub.<|endoftext|>!", "Cheap food\n\nThe Mill"]
    references = [["The Mill is a Pub!", " ", "A pub"], ["Cheap food"]]
    found = compute_texts(names, "e2e", raw, references, "e2e")
    assert list(found) == names
    assert all(type(value) is float for value in found.values())
    tokens = ["the mill a pub", "cheap food"], [["the mill is a pub", "a pub"], ["cheap food"]]
    assert seen["meteor"] == tokens
    assert found["rouge_l"] == text.rouge_l(*tokens)
    assert found["cider"] == text.cider(*tokens)
    trimmed = ["The Mill, a pub.", "Cheap food"], [["The Mill is a Pub!", "A pub"], ["Cheap food"]]
    assert found["nist"] == text.nist(*trimmed)


def test_triples_go_through_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtlora.score.metric import Metric

    seen: list[tuple[str, str, bool]] = []
    original = Metric._compute

    def spy(self: Metric, **columns: object) -> dict[str, float]:
        seen.append((self.config_name, self.experiment_id, self.keep_in_memory))
        return original(self, **columns)

    monkeypatch.setattr(Metric, "_compute", spy)
    arguments = (["ter", "bleu"], "triples", ["C d. A b", "X"], [["a B c d .", ""], [" ", "x\n\ny"]], "run-1")
    found = compute_texts(*arguments)
    # "c d . a b" to "a b c d .": one shift, 1 / 5; the empty reference, which would give 1, does not count
    assert found == {"ter": pytest.approx(0.1), "bleu": text.bleu(["c d . a b", "x"], [["a b c d ."], ["x"]])}
    assert seen == [(name, "run-1", True) for name in ("ter", "bleu")]
    assert compute_texts(*arguments, official_ter=True)["ter"] == pytest.approx(1.2 / 3)
    assert compute_texts(["ter"], "triples", [""], [["a"]], "run-2") == {"ter": 1.0}


@pytest.mark.parametrize(
    ("scoring", "left", "kept"),
    [("triples", "meteor", {"bleu", "ter"}), ("e2e", "meteor, rouge_l, cider", {"bleu", "nist"})],
)
def test_without_java(
    scoring: str,
    left: str,
    kept: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    names = ["meteor", *(["bleu", "ter"] if scoring == "triples" else ["bleu", "nist", "rouge_l", "cider"])]
    with caplog.at_level(logging.WARNING):
        assert set(compute_texts(names, scoring, ["a b"], [["a b"]], "run")) == kept
        assert set(compute_texts(sorted(kept), scoring, ["a b"], [["a b"]], "run")) == kept
    assert caplog.messages == [
        f"left out {left}: Java is missing or does not start; install it (e.g. `apt install default-jre-headless`)"
    ]


def test_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="text 2 has only empty references"):
        compute_texts(["bleu"], "triples", ["a", "b"], [["a"], ["", " \n"]], "run")
    with pytest.raises(UserError, match="1 texts for 2 lists of references"):
        compute_texts(["bleu"], "triples", ["a"], [["a"], ["b"]], "run")
    monkeypatch.setattr(mtlora.score.compute, "TEXT_PACKAGES", ("sacrebleu", "no_such_package"))
    with pytest.raises(UserError, match=r"needs no_such_package: .*pip install .*\[metrics\]'$"):
        compute_texts(["bleu"], "triples", ["a"], [["a"]], "run")


def test_metric_table() -> None:
    from mtlora.score.metric import FUNCTIONS

    texts = {name for name, (_, kind) in FUNCTIONS.items() if kind == "string"}
    assert texts == {"bleu", "nist", "meteor", "ter", "rouge_l", "cider"}
    assert texts == {name for name, info in METRICS.items() if info.kind == "generation"}
    assert set(METRICS) - {"loss"} == set(FUNCTIONS)  # training computes the loss
    assert [name for name, info in METRICS.items() if not info.higher_is_better] == ["ter", "loss"]
    assert all(METRICS[name].scale == 1 for name in texts)
    assert {name for names in TOKENISED.values() for name in names} <= texts
