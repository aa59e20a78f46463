"""Readers of data-to-text files, in the layouts in which WebNLG 2017, DART and E2E were released.

A file may have several texts for the same facts; each becomes a `Sentence`. A format consists of a function that finds the
entries of a file, each with its place, and one that turns an entry into sentences.
"""

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtlora.base.errors import UserError
from mtlora.base.files import checked_text, numbered_lines, parse_json, read_content, read_text
from mtlora.data.contexts import Sentence, checked_sentence, linearise
from mtlora.data.files import xml_files

Entries = Iterator[tuple[str, Any]]  # the place of an entry, for messages, and the entry
Parse = Callable[[Any, bool], Iterator[Sentence]]  # an entry, and whether relations are lower-cased

# Errors of reading an entry that has another form than expected; ValueError: a check has failed.
MALFORMED = (KeyError, TypeError, AttributeError, IndexError, ValueError)

# E2E's attributes as LoRA's GPT-2 data spell them.
E2E_ATTRIBUTES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
_MEANING = re.compile(r"\s*[^\[\],]+\[[^\]]*\](\s*,\s*[^\[\],]+\[[^\]]*\])*\s*")
_PRICES = re.compile(r"£(\d+)-(\d+)")


def read_sentences(path: Path, format: str, lower_relation: bool) -> list[Sentence]:
    """Read a data-to-text file (or a folder of XML files); texts that the annotators did not mark as `good` are left out.

    A text may be empty (DART has one), but not all of them.

    Raises:
        UserError: the file is broken or has no texts, or an entry is malformed; the message names the place.
    """
    entries, parse = FORMATS[format]
    sentences: list[Sentence] = []
    for place, entry in entries(path):
        with malformed(place, format):
            sentences += parse(entry, lower_relation)
    if not sentences:
        raise UserError(f"{path} has no rows: the split is empty")
    if not any(sentence.text.strip() for sentence in sentences):
        raise UserError(f"{path} has facts but no texts: each of its {len(sentences)} texts is blank")
    return sentences


@contextmanager
def malformed(place: str, format: str) -> Iterator[None]:
    """Turn an error of reading an entry into a UserError that starts with its place."""
    try:
        yield
    except MALFORMED as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, ValueError):
            reason = f"not {format} data ({f'no field {reason}' if isinstance(error, KeyError) else reason})"
        raise UserError(f"{place}: {reason}: repair or remove it") from None


def _json_lines(path: Path) -> Entries:
    for number, line in numbered_lines(read_text(path)):
        yield f"{path}:{number}", parse_json(line, f"{path}:{number}")


def _json_list(path: Path) -> Entries:
    entries = parse_json(read_text(path), str(path))
    if not isinstance(entries, list):
        raise UserError(f"{path} is not dart_json data: a list of entries is expected, found {type(entries).__name__}")
    for number, entry in enumerate(entries, start=1):
        yield f"{path}, entry {number}", entry


def _challenge_json(path: Path) -> Entries:
    """Yield the entries of `{"entries": [{"1": entry}, {"2": entry}, ...]}`."""
    content = parse_json(read_text(path), str(path))
    entries = content.get("entries") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(numbered, dict) for numbered in entries):
        raise UserError(f"{path} is not webnlg_json data: it has no list `entries` of numbered entries")
    for numbered in entries:
        for number, entry in numbered.items():
            yield f"{path}, entry {number}", entry


def _xml_entries(path: Path) -> Entries:
    for file in xml_files(path):
        try:
            root = ET.fromstring(read_content(file))
        except (ET.ParseError, ValueError, LookupError) as error:  # ValueError, LookupError: its encoding is unknown
            raise UserError(f"{file} is not whole XML ({error}): fetch it again") from None
        for number, entry in enumerate(root.iter("entry"), start=1):
            yield f"{file}, entry {number} ({entry.get('eid', 'no eid')})", entry


def _csv_rows(path: Path) -> Entries:
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        if (header := next(rows, [])) != ["mr", "ref"]:
            raise UserError(f"{path}:1: the columns mr and ref are expected, found {', '.join(header)}")
        for row in rows:
            if len(row) > 1 or "".join(row).strip():  # not a blank line
                yield f"{path}:{rows.line_num}", row
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: {error}: repair the line") from None


def _lines(path: Path) -> Entries:
    for number, line in numbered_lines(read_text(path)):
        yield f"{path}:{number}", line


def _good(texts: list[dict[str, Any]], key: str) -> Iterator[Any]:
    return (text[key] for text in texts if text["comment"] == "good")


def _webnlg(entry: Any, lower: bool) -> Iterator[Sentence]:
    context = linearise(entry["modified_triples"], lower)
    for text in _good(entry["lexicalisations"], "text"):
        yield _of_category(context, text, entry["category"])


def _webnlg_challenge(entry: Any, lower: bool) -> Iterator[Sentence]:
    context = linearise([(t["subject"], t["property"], t["object"]) for t in entry["modifiedtripleset"]], lower)
    for text in _good(entry["lexicalisations"], "lex"):
        yield _of_category(context, text, entry["category"])


def _webnlg_xml(entry: Any, lower: bool) -> Iterator[Sentence]:
    # The children of <modifiedtripleset> are <mtriple>, or <otriple> in some releases.
    context = linearise([_split_triple(triple.text or "") for triple in entry.findall("modifiedtripleset/*")], lower)
    for lex in entry.findall("lex"):
        if lex.get("comment") == "good":
            yield _of_category(context, _text_of(lex), entry.attrib["category"])


def _split_triple(triple: str) -> list[str]:
    return triple.strip().split(" | ")


def _text_of(lex: ET.Element) -> str:
    """Return the text of `<lex>`, which the enriched release keeps in a child `<text>`."""
    if not len(lex):
        return (lex.text or "").strip()
    if (child := lex.find("text")) is None:
        raise ValueError(f"<lex> has <{lex[0].tag}>, but neither text alone nor <text>")
    return "".join(child.itertext()).strip()


def _of_category(context: str, text: Any, category: Any) -> Sentence:
    """Return a sentence of WebNLG, whose scores depend on the category."""
    sentence = checked_sentence(context, text, category)
    if not sentence.category.strip():
        raise ValueError("the category is blank")
    return sentence


def _dart(entry: Any, lower: bool) -> Iterator[Sentence]:
    context = linearise(entry["tripleset"], lower)
    for annotation in entry["annotations"]:
        yield checked_sentence(context, annotation["text"])


def _e2e(row: Any, lower: bool) -> Iterator[Sentence]:
    if len(row) != 2:
        raise ValueError(f"{len(row)} fields, expected 2")
    yield checked_sentence(_e2e_context(row[0]), row[1])


def _e2e_context(meaning: Any) -> str:
    """Turn `name[value], ...` into the context of LoRA's GPT-2 data."""
    if not isinstance(meaning, str) or not _MEANING.fullmatch(meaning):
        raise ValueError(f"{meaning!r} is not of the form name[value], ...")
    facts = re.findall(r"([^\[\],]+)\[([^\]]*)\]", meaning)
    spaced = [(name.strip(), value.replace("than £", "than £ ")) for name, value in facts]
    pairs = [(E2E_ATTRIBUTES.get(name, name), _PRICES.sub(r"£ \1 - \2", value)) for name, value in spaced]
    return linearise(pairs, parts=2)


def _pair(line: Any, lower: bool) -> Iterator[Sentence]:
    context, bar, text = line.partition("||")
    if not bar:
        raise ValueError("no || between facts and text")
    if not all(part.strip() for fact in context.split(" | ") for part in fact.split(" : ")):
        raise ValueError(f"the facts {context!r} have a blank part")
    yield checked_sentence(context, text.strip())


FORMATS: dict[str, tuple[Callable[[Path], Entries], Parse]] = {
    "webnlg_jsonl": (
        _json_lines,
        _webnlg,
    ),  # one entry a line: category, modified_triples, lexicalisations [{comment, text}]
    "webnlg_json": (_challenge_json, _webnlg_challenge),  # the challenge's JSON
    "webnlg_xml": (_xml_entries, _webnlg_xml),  # the challenge's XML: one file, or a folder of them
    "dart_json": (_json_list, _dart),  # DART v1.1.1
    "e2e_csv": (_csv_rows, _e2e),  # the E2E challenge: mr, ref
    "pair_text": (_lines, _pair),  # LoRA's text files: facts||text
}


def _dart_hub(row: dict[str, Any], lower: bool) -> Iterator[Sentence]:
    context = linearise(row["tripleset"], lower)
    for text in row["annotations"]["text"]:
        yield checked_sentence(context, text)


def _e2e_hub(row: dict[str, Any], lower: bool) -> Iterator[Sentence]:
    text = checked_text(row["human_reference"], "the text")  # only DART has texts of None
    yield checked_sentence(_e2e_context(row["meaning_representation"]), text)


def _webnlg_hub(row: dict[str, Any], lower: bool) -> Iterator[Sentence]:
    if row["test_category"] not in ("", "testdata_with_lex"):  # the test split also holds rows without texts
        return
    context = linearise([_split_triple(triple) for triple in row["modified_triple_sets"]["mtriple_set"][0]], lower)
    for comment, text in zip(row["lex"]["comment"], row["lex"]["text"], strict=True):
        if comment == "good":
            yield _of_category(context, checked_text(text, "the text"), row["category"])


HUB_FORMATS: dict[str, Parse] = {
    "dart": _dart_hub,  # Yale-LILY/dart
    "e2e": _e2e_hub,  # tuetschek/e2e_nlg
    "webnlg": _webnlg_hub,  # webnlg-challenge/web_nlg, configuration webnlg_challenge_2017
}
