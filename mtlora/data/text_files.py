"""Readers of data-to-text files, in the layouts in which WebNLG 2017, DART and E2E were released.

A file may have several texts for the same facts; each becomes a `Sentence`.
"""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mtlora.base.errors import UserError
from mtlora.base.files import numbered_lines, read_content, read_text
from mtlora.data.contexts import Sentence, linearise
from mtlora.data.files import xml_files

# E2E's attributes as LoRA's GPT-2 data spell them.
E2E_ATTRIBUTES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
_MEANING = re.compile(r"\s*[^\[\],]+\[[^\]]*\](\s*,\s*[^\[\],]+\[[^\]]*\])*\s*")
_PRICES = re.compile(r"£(\d+)-(\d+)")


def read_sentences(path: Path, format: str, lower_relation: bool) -> list[Sentence]:
    """Read a data-to-text file (or a folder of XML files); texts that the annotators did not mark as `good` are left out.

    Raises:
        UserError: the file is broken or empty; the message names it and, where possible, the line.
    """
    try:
        sentences = list(FORMATS[format](path, lower_relation))
    except (KeyError, TypeError, AttributeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not {format} data ({type(error).__name__}: {error}): fetch it again") from None
    if not sentences:
        raise UserError(f"{path} has no rows: the split is empty")
    return sentences


def _webnlg_jsonl(path: Path, lower: bool) -> Iterator[Sentence]:
    for number, line in numbered_lines(read_text(path)):
        try:
            entry = json.loads(line)
            context = linearise(entry["modified_triples"], lower)
            for text in entry["lexicalisations"]:
                if text["comment"] == "good":
                    yield Sentence(context, text["text"], entry["category"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}:{number}: not a WebNLG entry ({error}): repair or remove the line") from None


def _webnlg_json(path: Path, lower: bool) -> Iterator[Sentence]:
    for numbered in json.loads(read_text(path))["entries"]:
        for entry in numbered.values():
            triples = [(t["subject"], t["property"], t["object"]) for t in entry["modifiedtripleset"]]
            for text in entry["lexicalisations"]:
                if text["comment"] == "good":
                    yield Sentence(linearise(triples, lower), text["lex"], entry["category"])


def _webnlg_xml(path: Path, lower: bool) -> Iterator[Sentence]:
    for file in xml_files(path):
        try:
            root = ET.fromstring(read_content(file))
        except ET.ParseError as error:
            raise UserError(f"{file} is not whole XML ({error}): fetch it again") from None
        for entry in root.iter("entry"):
            triples = [(triple.text or "").split(" | ") for triple in entry.findall("modifiedtripleset/mtriple")]
            for text in entry.findall("lex"):
                if text.get("comment") == "good":
                    yield Sentence(linearise(triples, lower), text.text or "", entry.get("category", ""))


def _dart_json(path: Path, lower: bool) -> Iterator[Sentence]:
    for entry in json.loads(read_text(path)):
        for annotation in entry["annotations"]:
            yield Sentence(linearise(entry["tripleset"], lower), annotation["text"] or "")


def _e2e_csv(path: Path, lower: bool) -> Iterator[Sentence]:
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    if (header := next(rows, [])) != ["mr", "ref"]:
        raise UserError(f"{path}:1: the columns mr and ref are expected, found {', '.join(header)}")
    try:
        for row in rows:
            if len(row) != 2:
                raise UserError(f"{path}:{rows.line_num}: {len(row)} fields, expected 2: repair or remove the line")
            if not (context := _e2e_context(row[0])):
                raise UserError(f"{path}:{rows.line_num}: {row[0]!r} is not of the form name[value], ...")
            yield Sentence(context, row[1])
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: {error}: repair the line") from None


def _e2e_context(meaning: str) -> str:
    """Turn `name[value], ...` into the context of LoRA's GPT-2 data; any other text gives an empty string."""
    if not _MEANING.fullmatch(meaning):
        return ""
    facts = re.findall(r"([^\[\],]+)\[([^\]]*)\]", meaning)
    spaced = [(name.strip(), value.replace("than £", "than £ ")) for name, value in facts]
    return linearise((E2E_ATTRIBUTES.get(name, name), _PRICES.sub(r"£ \1 - \2", value)) for name, value in spaced)


def _pair_text(path: Path, lower: bool) -> Iterator[Sentence]:
    for number, line in numbered_lines(read_text(path)):
        context, bar, text = line.partition("||")
        if not bar:
            raise UserError(f"{path}:{number}: no || between facts and text: repair or remove the line")
        yield Sentence(context, text.strip())


FORMATS: dict[str, Callable[[Path, bool], Iterator[Sentence]]] = {
    "webnlg_jsonl": _webnlg_jsonl,  # one entry a line: category, modified_triples, lexicalisations [{comment, text}]
    "webnlg_json": _webnlg_json,  # the challenge's JSON
    "webnlg_xml": _webnlg_xml,  # the challenge's XML: one file, or a folder of them
    "dart_json": _dart_json,  # DART v1.1.1
    "e2e_csv": _e2e_csv,  # the E2E challenge: mr, ref
    "pair_text": _pair_text,  # LoRA's text files: facts||text
}


def _dart_hub(row: dict[str, Any], lower: bool) -> Iterator[Sentence]:
    for text in row["annotations"]["text"]:
        yield Sentence(linearise(row["tripleset"], lower), text or "")


def _e2e_hub(row: dict[str, Any], lower: bool) -> Iterator[Sentence]:
    if not (context := _e2e_context(row["meaning_representation"])):
        raise ValueError(f"{row['meaning_representation']!r} is not of the form name[value], ...")
    yield Sentence(context, row["human_reference"])


def _webnlg_hub(row: dict[str, Any], lower: bool) -> Iterator[Sentence]:
    if row["test_category"] not in ("", "testdata_with_lex"):  # the test split also holds rows without texts
        return
    triples = [triple.split(" | ") for triple in row["modified_triple_sets"]["mtriple_set"][0]]
    for comment, text in zip(row["lex"]["comment"], row["lex"]["text"], strict=True):
        if comment == "good":
            yield Sentence(linearise(triples, lower), text, row["category"])


HUB_FORMATS: dict[str, Callable[[dict[str, Any], bool], Iterator[Sentence]]] = {
    "dart": _dart_hub,  # Yale-LILY/dart
    "e2e": _e2e_hub,  # tuetschek/e2e_nlg
    "webnlg": _webnlg_hub,  # webnlg-challenge/web_nlg, configuration webnlg_challenge_2017
}
