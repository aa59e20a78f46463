"""The command that scores texts: its input is known by its content, and every mistake in it is one line."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.glue_files import jsonl, write

from mtlora.base.errors import UserError
from mtlora.score import __main__ as score
from mtlora.score import text

TEXTS = ["Soup is a hot dish .", "Bread is made of wheat ."]
DATA = [
    {
        "category": "Food",
        "modified_triples": [["A", "b", str(number)]],
        "lexicalisations": [{"comment": "good", "text": words}],
    }
    for number, words in enumerate(TEXTS)
]
ROWS: list[dict[str, Any]] = [
    {"context": f"A : b : {number}", "references": [words], "category": "Food", "prediction": words}
    for number, words in enumerate(TEXTS)
]


@pytest.fixture(autouse=True)
def _without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "java_works", lambda: False)


def bleu_of(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: bool = True
) -> float:
    write(path.with_name("test.jsonl"), jsonl(DATA))
    monkeypatch.setattr(
        sys, "argv", ["score", "webnlg", str(path), *(["--data-root", str(path.parent)] if data else [])]
    )
    capsys.readouterr()
    score.main()
    return float(json.loads(capsys.readouterr().out)["A"]["bleu"])


@pytest.mark.parametrize("name", ["p.jsonl", "P.JSONL", "p.json", "p", "p.txt", "p.jsonl.gz", "P.JSONL.GZ", "p.bin"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_records_are_known_by_their_content(
    name: str, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (start + jsonl(ROWS)).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.lower().endswith((".gz", ".bin")) else content)
    assert bleu_of(path, monkeypatch, capsys) == pytest.approx(100.0)
    assert bleu_of(path, monkeypatch, capsys, data=False) == pytest.approx(100.0)


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n", "\n \n\n"])
def test_blank_last_lines_of_texts_change_nothing(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "texts.txt", "\n".join(TEXTS) + end)
    assert bleu_of(path, monkeypatch, capsys) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (jsonl([ROWS[0], ROWS[1] | {"references": "Bread"}]), ":2: .*references is not a list of texts"),
        (jsonl([ROWS[0], ROWS[1] | {"references": [None]}]), ":2: .*a reference is null, not a text"),
        (jsonl([ROWS[0] | {"prediction": None}]), ":1: .*prediction is null, not a text"),
        (jsonl([ROWS[0] | {"prediction": 3}]), ":1: .*prediction is 3, not a text"),
        (jsonl([ROWS[0] | {"prediction": "hi \ud83d"}]), r":1: .*half of a surrogate pair, .ud83d"),
        (jsonl([ROWS[0] | {"references": ["\udc00"]}]), ":1: .*half of a surrogate pair"),
        (jsonl([ROWS[0], ROWS[0]]), ":2: the context 'A : b : 0' is that of line 1, too"),
        (jsonl(ROWS) + "[]\n", ":3: not a row with context"),
        (jsonl(ROWS) + "\n{}\n", ":3: not a JSON value"),
        (json.dumps(ROWS), "is one JSON value"),
        (json.dumps(ROWS, indent=1), "is one JSON value"),
        (json.dumps(ROWS[0], indent=1), "is one JSON value"),
        (jsonl(ROWS).encode("utf-16"), ":1: byte 0xff is not UTF-8"),
    ],
)
def test_predictions_that_cannot_be_read_are_one_line(
    content: Any, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=named) as error:
        bleu_of(write(tmp_path / "predictions", content), monkeypatch, capsys)
    assert "\n" not in str(error.value)


def test_a_character_that_a_model_wrote_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "p.jsonl", jsonl([ROWS[0] | {"prediction": "a\0"}, ROWS[1]]))
    assert 0 < bleu_of(path, monkeypatch, capsys) < 100
