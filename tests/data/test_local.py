"""Local files: every way in which a file can be wrong is one line that says where."""

import gzip
from pathlib import Path

import pytest
from helpers.glue_files import OFFICIAL, jsonl, load_train, local_data, one_line, option, tsv, write

from mtlora.base.errors import UserError
from mtlora.config.schema import DataConfig
from mtlora.data import sources
from mtlora.data.table_files import check_columns

SST2 = "SST-2/train.tsv"
MNLI = "MNLI/train_subset.jsonl"
STSB = "STS-B/train.tsv"
SCORED = OFFICIAL[STSB][:1]
ROW = OFFICIAL[STSB][1][:-1]
PAIR = {"premise": "a", "hypothesis": "b", "label": "neutral"}
BROKEN = {
    "too many fields": ("sst2", SST2, "sentence\tlabel\nfine\t1\na\tb\t1\n", r"train\.tsv:3: 3 fields, expected 2"),
    "too few fields": ("cola", "CoLA/train.tsv", "a\t1\t\tok\nb\t0\n", r"train\.tsv:2: 2 fields, expected 4"),
    "blank line": ("sst2", SST2, "sentence\tlabel\n\nfine\t1\n", r"train\.tsv:2: 1 fields"),
    "no column": ("sst2", SST2, "text\tlabel\nfine\t1\n", r"train\.tsv:1: no column sentence: found .*text, label"),
    "short headerless row": ("cola", "CoLA/train.tsv", "a\t1\n", r"train\.tsv:1: no column 3"),
    "label": ("sst2", SST2, "sentence\tlabel\nfine\t1\nbad\t2\n", r"train\.tsv:3: label '2' .*negative, positive, 0"),
    "empty label": ("sst2", SST2, "sentence\tlabel\nfine\t\n", r"train\.tsv:2: label '' is unknown"),
    "header only": ("sst2", SST2, "sentence\tlabel\n", r"train\.tsv has no rows"),
    "empty file": ("sst2", SST2, "", r"train\.tsv has no rows"),
    "score too high": ("stsb", STSB, tsv([*SCORED, [*ROW, "5.1"]]), r"train\.tsv:2: score '5\.1' .*from 0 to 5"),
    "score too low": ("stsb", STSB, tsv([*SCORED, [*ROW, "-0.1"]]), r"train\.tsv:2: score '-0\.1'"),
    "score nan": ("stsb", STSB, tsv([*SCORED, [*ROW, "nan"]]), r"train\.tsv:2: score 'nan' is not a number"),
    "score text": ("stsb", STSB, tsv([*SCORED, [*ROW, "high"]]), r"train\.tsv:2: score 'high' is not a number"),
    "utf-8": ("sst2", SST2, b"sentence\tlabel\nfine\t1\ncaf\xe9\t1\n", r"train\.tsv:3: byte 0xe9 is not UTF-8"),
    "broken json": ("mnli", MNLI, jsonl([PAIR]) + '{"premise": "a",\n', r"train_subset\.jsonl:2: not a JSON value"),
    "json list": ("mnli", MNLI, "[1]\n", r"train_subset\.jsonl:1: a JSON object is expected, found list"),
    "json field": ("mnli", MNLI, '{"premise": "a"}\n', r"train_subset\.jsonl:1: no field hypothesis"),
    "json text": ("mnli", MNLI, jsonl([PAIR | {"premise": None}]), r"train_subset\.jsonl:1: premise is null, not"),
    "json label": ("mnli", MNLI, jsonl([PAIR | {"label": True}]), r"train_subset\.jsonl:1: label True is unknown"),
    "json fraction": ("mnli", MNLI, jsonl([PAIR | {"label": 1.0}]), r"train_subset\.jsonl:1: label 1\.0 is unknown"),
    "json class": ("mnli", MNLI, jsonl([PAIR | {"label": -1}]), r"train_subset\.jsonl:1: label -1 is unknown"),
    "half a pair": ("mnli", MNLI, jsonl([PAIR | {"premise": "hi \ud83d"}]), r":1: premise has half of a surrogate pair, .ud83d"),
    "half a pair, the other half": ("mnli", MNLI, jsonl([PAIR, PAIR | {"hypothesis": "\udc00"}]), r":2: hypothesis has half"),
    "nul": ("sst2", SST2, "sentence\tlabel\nfi\0ne\t1\n", r"train\.tsv:2: sentence has a NUL"),
    "blank text": ("sst2", SST2, "sentence\tlabel\n \t1\n", r"train\.tsv:2: sentence blank"),
    "blank pair": ("mnli", MNLI, jsonl([PAIR | {"premise": "", "hypothesis": " "}]), r":1: premise and hypothesis blank"),
    "json nan label": ("mnli", MNLI, '{"premise": "a", "hypothesis": "b", "label": NaN}\n', r":1: label nan is unknown"),
    "deep json": ("mnli", MNLI, "[" * 100_000 + "\n", r"train_subset\.jsonl:1: not a JSON value"),
    "cut row elsewhere": ("sst2", SST2, "sentence\tlabel\nfi\nne\t1\n", r"train\.tsv:2: 1 fields"),
    "qqp cut short": ("qqp", "QQP/train.tsv", tsv(OFFICIAL["QQP/train.tsv"]) + "7\t8\t9", r"train\.tsv:4: the file ends inside"),
    "qqp too many": ("qqp", "QQP/train.tsv", tsv([*OFFICIAL["QQP/train.tsv"], ["7"] * 7]), r"train\.tsv:4: 7 fields, expected 6"),
    "empty jsonl": ("mnli", MNLI, "\n", r"train_subset\.jsonl has no rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file(case: str, tmp_path: Path) -> None:
    name, file, content, message = BROKEN[case]
    write(tmp_path / "glue" / file, content)
    with pytest.raises(UserError, match=message) as error:
        load_train(name, tmp_path / "glue", subset=True)
    one_line(error)


def test_rows_of_qqp_that_a_line_break_cuts_in_two_are_left_out_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tsv(OFFICIAL["QQP/train.tsv"]) + '2\t5\t6\tIs it "odd\n"\tor even?\t0\n' + "3\t7\t8\tWho?\tWhich one?\t0\n"
    write(tmp_path / "QQP/train.tsv", rows)
    columns = load_train("qqp", tmp_path)
    assert columns["question1"] == ["How?", "", "Who?"]  # one text of a pair may be blank, as in the release
    assert columns["label"] == [1, 0, 0]
    assert "left out 2 lines with too few fields" in caplog.text
    assert "the first is line 4" in caplog.text


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\n  \n", ""])
def test_blank_last_lines_change_nothing(end: str, tmp_path: Path) -> None:
    write(tmp_path / SST2, tsv(OFFICIAL[SST2]).rstrip("\n") + end)
    write(tmp_path / MNLI, jsonl([PAIR]).rstrip("\n") + end)
    assert load_train("sst2", tmp_path)["label"] == [1, 0]
    assert load_train("mnli", tmp_path, subset=True)["label"] == [1]


def test_rows_of_the_hub_pass_the_same_check() -> None:
    columns = {"premise": ["a", "hi \ud83d"], "hypothesis": ["b", "c"], "label": [0, 1]}
    with pytest.raises(UserError, match=r"nyu-mll/glue, row 1: premise has half of a surrogate pair"):
        check_columns(option("mnli"), columns, "nyu-mll/glue")
    with pytest.raises(UserError, match=r"row 0: hypothesis is null, not a text"):
        check_columns(option("mnli"), {"premise": ["a"], "hypothesis": [None], "label": [0]}, "nyu-mll/glue")


@pytest.mark.parametrize("damage", ["cut", "flipped", "plain text"])
def test_corrupt_gzip(damage: str, tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(tsv(OFFICIAL[SST2]).encode()))
    flipped = whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:]
    content = {"cut": whole[:-12], "flipped": flipped, "plain text": b"sentence\tlabel\n"}[damage]
    path = tmp_path / "glue" / f"{SST2}.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.tsv\.gz is not a whole gzip file") as error:
        load_train("sst2", tmp_path / "glue")
    one_line(error)


def test_missing_folder_file_and_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root=\S*nowhere is not a folder"):
        load_train("sst2", tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=r"no file for split train of qqp .*QQP/train\.tsv\.gz, QQP/train_subset\.jsonl"
    ):
        load_train("qqp", tmp_path)
    with pytest.raises(UserError, match="declares no local file for split test"):
        sources.load_split(option("sst2"), local_data(tmp_path), "test")
    with pytest.raises(UserError, match=r"needs data\.root=DIR"):
        sources.load_split(option("sst2"), DataConfig(source="local"), "train")
    write(tmp_path / SST2, tsv(OFFICIAL[SST2]))
    with pytest.raises(UserError, match="no file for split validation of sst2"):
        sources.evaluation_splits(option("sst2"), local_data(tmp_path))
