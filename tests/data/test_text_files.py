"""Data-to-text files in the layouts of their releases, and how their facts become contexts."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.glue_files import jsonl, write

from mtlora.base.errors import UserError
from mtlora.base.paths import REPOSITORY
from mtlora.config.schema import DataConfig, TaskConfig
from mtlora.data.contexts import Sentence, contexts_of, linearise
from mtlora.data.files import content_digest
from mtlora.data.sources import fingerprint, load_contexts, load_split, split_fingerprint
from mtlora.data.text_files import HUB_FORMATS, read_sentences
from mtlora.plan.cell import compose_cell
from mtlora.score.generated import in_part

REAL = REPOSITORY.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="the real data files are not on this machine")

TRIPLES = [["A_b", "bornIn", "C"], ["C", "Country", "D d"]]
JSONL = {
    "category": "Food",
    "modified_triples": TRIPLES,
    "lexicalisations": [{"comment": "good", "text": "One."}, {"comment": "toFix", "text": "Bad"}],
}
CHALLENGE = {
    "entries": [
        {
            "1": {
                "category": "Food",
                "modifiedtripleset": [dict(zip(("subject", "property", "object"), t, strict=True)) for t in TRIPLES],
                "lexicalisations": [{"comment": "good", "lex": "One."}, {"comment": "", "lex": "Bad"}],
            }
        }
    ]
}
XML = (
    '<benchmark><entries><entry category="Food" eid="Id1"><originaltripleset><otriple>x | y | z</otriple>'
    "</originaltripleset><modifiedtripleset><mtriple>A_b | bornIn | C</mtriple><mtriple>C | Country | D d</mtriple>"
    '</modifiedtripleset><lex comment="good">One.</lex><lex comment="toFix">Bad</lex></entry></entries></benchmark>'
)
DART = [{"tripleset": TRIPLES, "annotations": [{"source": "s", "text": "One."}, {"source": "s", "text": None}]}]
E2E = 'mr,ref\r\n"name[A b], eatType[pub], priceRange[£20-25], familyFriendly[no]","A ""b"", the\npub."\r\n'
CONTEXT = "A_b : bornIn : C | C : Country : D d"


@pytest.mark.parametrize(
    ("name", "content", "format", "expected"),
    [
        ("train.jsonl", json.dumps(JSONL) + "\n", "webnlg_jsonl", [Sentence(CONTEXT, "One.", "Food")]),
        ("train.json", json.dumps(CHALLENGE), "webnlg_json", [Sentence(CONTEXT, "One.", "Food")]),
        ("test.xml", XML, "webnlg_xml", [Sentence(CONTEXT, "One.", "Food")]),
        ("a.json.gz", json.dumps(DART), "dart_json", [Sentence(CONTEXT, "One."), Sentence(CONTEXT, "")]),
        (
            "a.csv",
            E2E,
            "e2e_csv",
            [Sentence("name : A b | Type : pub | price : £ 20 - 25 | family friendly : no", 'A "b", the\npub.')],
        ),
        (
            "a.txt",
            "name : A | Type : pub||A is a pub . \n",
            "pair_text",
            [Sentence("name : A | Type : pub", "A is a pub .")],
        ),
    ],
)
def test_formats(name: str, content: str, format: str, expected: list[Sentence], tmp_path: Path) -> None:
    assert read_sentences(write(tmp_path / name, content), format, lower_relation=False) == expected


ENTRY = '<benchmark><entries><entry category="Food"><modifiedtripleset>%s</modifiedtripleset>%s</entry></entries></benchmark>'
TRIPLE, LEX = "<mtriple>A | b | C</mtriple>", '<lex comment="good">t</lex>'


@pytest.mark.parametrize(
    ("triples", "lex"),
    [
        ("<otriple>A | b | C</otriple>", LEX),
        ("\n  <mtriple>\n A | b | C\n</mtriple>\n", '<lex comment="good">\n t\n </lex>'),
        (TRIPLE, '<lex comment="good">\n <template>x</template><text>t</text>\n</lex>'),
        (TRIPLE, '<lex comment="good"><text><b>t</b></text></lex>'),
    ],
)
def test_releases_of_webnlg_xml(triples: str, lex: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.xml", ENTRY % (triples, lex))
    assert read_sentences(path, "webnlg_xml", False) == [Sentence("A : b : C", "t", "Food")]


W = {"category": "Food", "modified_triples": [["A", "b", "C"]], "lexicalisations": [{"comment": "good", "text": "t"}]}
D = {"tripleset": [["A", "b", "C"]], "annotations": [{"text": "t"}]}
SHAPES: list[tuple[str, Any]] = [
    *(("dart_json", [D, D | {"tripleset": wrong}]) for wrong in ([], [[]], [["A"]], ["A : b : C"], "A", None, [["A", "b", " "]])),
    *(("dart_json", [D, D | {"tripleset": wrong}]) for wrong in ([["A", "b", 3]], [["A", "b", "C", "D"]], [{"s": 1}])),
    *(("dart_json", [D, D | {"annotations": wrong}]) for wrong in ([{"text": 3}], ["t"], None, [{}], [{"text": ["t"]}])),
    ("dart_json", [D, D | {"annotations": [{"text": "hi \ud83d"}]}]),
    ("dart_json", [D, D | {"tripleset": [["A", "b", "\udc00"]]}]),
    ("dart_json", [D, D | {"annotations": [{"text": "a\0"}]}]),
    ("dart_json", [D, 3]),
    *(("webnlg_jsonl", [W, W | {"modified_triples": wrong}]) for wrong in ([], ["A | b | C"], [["A"]], {"A": "b"}, None)),
    *(("webnlg_jsonl", [W, W | {"category": wrong}]) for wrong in (None, ["Food"], " ", 3)),
    ("webnlg_jsonl", [W, W | {"lexicalisations": [{"comment": "good", "text": 3}]}]),
    ("webnlg_jsonl", [W, W | {"lexicalisations": [{"text": "t"}]}]),
    ("webnlg_jsonl", [W, []]),
    ("webnlg_xml", [ENTRY % ("", LEX)]),
    ("webnlg_xml", [ENTRY % ("<mtriple>A | b</mtriple>", LEX)]),
    ("webnlg_xml", [ENTRY % (TRIPLE, '<lex comment="good"><b>t</b></lex>')]),
    ("webnlg_xml", [(ENTRY % (TRIPLE, LEX)).replace(' category="Food"', "")]),
    *(("e2e_csv", ["mr,ref", "name[A],t", wrong]) for wrong in ("name[],t", "name[ ],t", ",t", "name[A],t,u", "A,t")),
    ("e2e_csv", ["mr,ref", "name[A],t", '"name[A],t']),
    *(("pair_text", ["name : A||t", wrong]) for wrong in ("||t", " ||t", "name : ||t", "name : A |  : B||t")),
]  # fmt: skip


@pytest.mark.parametrize(("format", "content"), SHAPES)
def test_an_entry_of_another_shape_is_one_line_with_its_place(format: str, content: Any, tmp_path: Path) -> None:
    if format == "dart_json":
        text, place = json.dumps(content), ", entry 2: "
    elif format == "webnlg_jsonl":
        text, place = jsonl(content), ":2: "
    else:
        text, place = (
            "\n".join(content),
            {"webnlg_xml": ", entry 1 (no eid): ", "e2e_csv": ":3: ", "pair_text": ":2: "}[format],
        )
    path = write(tmp_path / "file", text)
    with pytest.raises(UserError) as error:
        read_sentences(path, format, lower_relation=True)
    assert str(error.value).startswith(f"{path}{place}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["dart", "webnlg", "e2e"])
def test_a_row_of_the_hub_passes_the_same_check(name: str) -> None:
    rows: dict[str, dict[str, Any]] = {
        "dart": {"tripleset": [["A", "b"]], "annotations": {"text": ["t"]}},
        "webnlg": {
            "category": "Food",
            "test_category": "",
            "modified_triple_sets": {"mtriple_set": [["A | b"]]},
            "lex": {"comment": ["good"], "text": ["t"]},
        },
        "e2e": {"meaning_representation": "name[ ]", "human_reference": "t"},
    }
    with pytest.raises(ValueError, match="the fact"):
        list(HUB_FORMATS[name](rows[name], False))


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("webnlg_xml", ENTRY % (TRIPLE, '<lex comment="good"> <text/></lex>')),
        ("dart_json", json.dumps([D | {"annotations": [{"text": " "}, {"text": None}]}])),
        ("webnlg_jsonl", jsonl([W | {"lexicalisations": [{"comment": "good", "text": ""}]}])),
        ("e2e_csv", "mr,ref\nname[A],\n"),
        ("pair_text", "name : A|| \n"),
    ],
)
def test_a_file_of_blank_texts_is_refused(format: str, content: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has facts but no texts: each of its"):
        read_sentences(write(tmp_path / "file", content), format, False)


def test_a_blank_text_is_left_out_with_a_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = [D, {"tripleset": [["X", "y", "Z"]], "annotations": [{"text": ""}, {"text": None}]}]
    write(tmp_path / "dart-v1.1.1-full-train.json", json.dumps(entries))
    columns = load_split(task_of("dart"), DataConfig(source="local", root=str(tmp_path)), "train")
    assert columns["text"] == ["t"]
    assert "dart, train: left out 2 of 3 rows, whose text is blank; the first has the facts 'X : y : Z'" in caplog.text


def test_what_editors_and_archives_add_changes_nothing(tmp_path: Path) -> None:
    csv = write(tmp_path / "a.csv", 'mr,ref\r\n"name[A]","A is here."\r\n\r\n  \r\n')
    assert len(read_sentences(csv, "e2e_csv", False)) == 1
    folder = write(tmp_path / "train/1triples/a.xml", XML).parent.parent
    before = content_digest(folder)
    for name in ("._a.xml", "1triples/._a.xml", ".ipynb_checkpoints/a.xml", "__MACOSX/1triples/._a.xml", ".DS_Store"):
        write(folder / name, b"\x00\x05\x16\x07")
    assert len(read_sentences(folder, "webnlg_xml", False)) == 1
    assert content_digest(folder) == before


def test_a_compressed_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", gzip.compress(jsonl([W]).encode()))
    assert read_sentences(path, "webnlg_jsonl", False) == [Sentence("A : b : C", "t", "Food")]


def test_a_folder_of_xml_files_is_read_in_order_of_names(tmp_path: Path) -> None:
    write(tmp_path / "2triples/b.xml", XML.replace("One.", "Two."))
    write(tmp_path / "1triples/z.xml", XML)
    assert [sentence.text for sentence in read_sentences(tmp_path, "webnlg_xml", False)] == ["One.", "Two."]


def test_only_the_relation_is_lower_cased() -> None:
    assert linearise(TRIPLES, lower_relation=True) == "A_b : bornin : C | C : country : D d"


def test_contexts_are_by_exact_facts_with_the_first_references() -> None:
    sentences = [
        Sentence("a", "1"),
        Sentence(" a", "2"),
        Sentence("a", ""),
        Sentence("a", "1"),
        Sentence("a", "3", "late"),
        Sentence("a", "4"),
    ]
    first, second = contexts_of(sentences, max_references=3)
    assert (first.facts, first.references, first.category) == ("a", ("1", "1", "3"), "")
    assert (second.facts, second.references) == (" a", ("2",))
    assert contexts_of(sentences, None)[0].references == ("1", "1", "3", "4")
    with pytest.raises(UserError, match="'b' has no text"):
        contexts_of([Sentence("b", " ")], None)


@pytest.mark.parametrize(
    ("format", "content", "named"),
    [
        ("webnlg_jsonl", '{"category": "x"}\n', ":1: not webnlg_jsonl data (no field 'modified_triples')"),
        ("webnlg_jsonl", json.dumps(JSONL) + "\n{", ":2: not a JSON value"),
        ("webnlg_json", '{"entries": 3}', "is not webnlg_json data"),
        ("webnlg_xml", "<a><b></a>", "is not whole XML"),
        ("dart_json", "[", ": not a JSON value"),
        ("dart_json", "{}", "is not dart_json data"),
        ("dart_json", "[]", "has no rows"),
        ("e2e_csv", '"mr,ref', ":1: unexpected end of data: repair the line"),
        ("e2e_csv", "a,b\n", ":1: the columns mr and ref are expected"),
        ("e2e_csv", "mr,ref\nname[A]\n", ":2: 1 fields, expected 2"),
        ("e2e_csv", "mr,ref\nname A,text\n", ":2: 'name A' is not of the form"),
        ("pair_text", "a||b\nno bar\n", ":2: no || between"),
    ],
)
def test_a_broken_file_is_one_line_that_names_the_place(format: str, content: str, named: str, tmp_path: Path) -> None:
    path = write(tmp_path / "file", content)
    with pytest.raises(UserError) as error:
        read_sentences(path, format, lower_relation=False)
    assert str(path) in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "dart",
            {"tripleset": TRIPLES, "annotations": {"source": ["s", "s"], "text": ["One.", None]}},
            [
                Sentence("A_b : bornin : C | C : country : D d", "One."),
                Sentence("A_b : bornin : C | C : country : D d", ""),
            ],
        ),
        (
            "e2e",
            {"meaning_representation": "name[A], eatType[pub]", "human_reference": "A."},
            [Sentence("name : A | Type : pub", "A.")],
        ),
        (
            "webnlg",
            {
                "category": "Food",
                "test_category": "testdata_with_lex",
                "modified_triple_sets": {"mtriple_set": [["A_b | bornIn | C", "C | Country | D d"]]},
                "lex": {"comment": ["good", "bad"], "text": ["One.", "Bad"]},
            },
            [Sentence("A_b : bornin : C | C : country : D d", "One.", "Food")],
        ),
        ("webnlg", {"category": "Food", "test_category": "testdata_unseen_without_lex"}, []),
    ],
)
def test_rows_of_the_hub(name: str, row: dict[str, object], expected: list[Sentence]) -> None:
    assert list(HUB_FORMATS[name](row, True)) == expected


def task_of(name: str) -> TaskConfig:
    return compose_cell([f"task={name}", "model=tiny_gpt2"]).config.task


def test_dart_without_a_training_file_says_so(tmp_path: Path) -> None:
    write(tmp_path / "dart-v1.1.1-full-test.json", json.dumps(DART))
    data = DataConfig(source="local", root=str(tmp_path))
    with pytest.raises(UserError, match=r"no file for split train of dart .*looked for dart-v1\.1\.1-full-train\.json"):
        fingerprint(task_of("dart"), data)
    assert [context.references for context in load_contexts(task_of("dart"), data)] == [("One.",)]


def test_the_digest_of_a_folder_follows_its_content(tmp_path: Path) -> None:
    write(tmp_path / "test.json", json.dumps(CHALLENGE))
    write(tmp_path / "train/1triples/a.xml", XML)
    task, data = task_of("webnlg"), DataConfig(source="local", root=str(tmp_path))
    first = split_fingerprint(task, data, "train")
    assert first == split_fingerprint(task, data, "train")
    write(tmp_path / "train/1triples/a.xml", XML.replace("One.", "Another."))
    assert split_fingerprint(task, data, "train") != first


@needs_data
@pytest.mark.parametrize(
    ("task", "folder", "split", "sentences", "contexts"),
    [
        ("webnlg", "webnlg_2017", "train", 18_025, None),
        ("webnlg", "webnlg_2017", "validation", 2_258, None),
        ("webnlg", "webnlg_2017", "test", 4_928, 1_862),
        ("dart", "dart", "validation", 6_980, None),
        ("dart", "dart", "test", 12_551, 4_159),  # of 12,552 texts one is null
        ("e2e", "e2e", "train", 42_061, None),
        ("e2e", "e2e", "test", 4_693, 630),
    ],
)
def test_official_counts(task: str, folder: str, split: str, sentences: int, contexts: int | None) -> None:
    config, data = task_of(task), DataConfig(source="local", root=str(REAL / folder))
    assert [len(column) for column in load_split(config, data, split).values()] == [sentences] * 3
    if contexts is not None:
        found = load_contexts(config, data)
        assert len(found) == contexts
        if task == "webnlg":
            assert [sum(in_part(config, context, f"test_{part}") for context in found) for part in "SUA"] == [
                971,
                891,
                1862,
            ]


@needs_data
def test_releases_of_the_same_data_agree() -> None:
    e2e = read_sentences(REAL / "e2e/testset_w_refs.csv.gz", "e2e_csv", False)
    lora = read_sentences(REAL / "e2e/lora_format/test.txt.gz", "pair_text", False)
    assert [sentence.context for sentence in e2e] == [sentence.context for sentence in lora]
    webnlg = REAL / "webnlg_2017"
    ours = read_sentences(webnlg / "test.jsonl.gz", "webnlg_jsonl", False)
    assert ours == read_sentences(webnlg / "original/testdata_with_lex.xml.gz", "webnlg_xml", False)
    dev = read_sentences(webnlg / "dev.jsonl.gz", "webnlg_jsonl", False)
    assert dev == read_sentences(webnlg / "original/dev.json.gz", "webnlg_json", False)
