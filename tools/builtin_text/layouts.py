"""The generated rows as files, in the layouts of the official releases."""

import csv
import io
import json
from collections.abc import Callable, Iterable

from .glue import SPLITS, generate
from .triples import TRIPLE_SPLITS, Entry, generate_entries

# Task -> folder of GLUE's zip, and header of its files -> column of our rows (empty: there is no value for it).
_INDEX = {"index": "idx"}
_SENTENCES = {"sentence1": "sentence1", "sentence2": "sentence2"}
_GLUE: dict[str, tuple[str, dict[str, str]]] = {
    "cola": ("CoLA", {"source": "", "label": "label", "original mark": "", "sentence": "sentence"}),
    "sst2": ("SST-2", {"sentence": "sentence", "label": "label"}),
    "mrpc": (
        "MRPC",
        {"Quality": "label", "#1 ID": "", "#2 ID": "", "#1 String": "sentence1", "#2 String": "sentence2"},
    ),
    "stsb": (
        "STS-B",
        _INDEX
        | dict.fromkeys(("genre", "filename", "year", "old_index", "source1", "source2"), "")
        | _SENTENCES
        | {"score": "label"},
    ),
    "qqp": (
        "QQP",
        {"id": "idx", "qid1": "", "qid2": ""}
        | {"question1": "question1", "question2": "question2", "is_duplicate": "label"},
    ),
    "mnli": (
        "MNLI",
        _INDEX
        | dict.fromkeys(("promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse"), "")
        | {"sentence1_parse": "", "sentence2_parse": ""}
        | {"sentence1": "premise", "sentence2": "hypothesis", "label1": "label", "gold_label": "label"},
    ),
    "qnli": ("QNLI", _INDEX | {"question": "question", "sentence": "sentence", "label": "label"}),
    "rte": ("RTE", _INDEX | _SENTENCES | {"label": "label"}),
}
_NLI = ("entailment", "not_entailment")
_LABELS = {
    "mnli": ("entailment", "neutral", "contradiction"),
    "qnli": _NLI,
    "rte": _NLI,
}  # the other files have numbers
_GLUE_FILES = {
    "train": "train.tsv",
    "validation": "dev.tsv",
    "validation_matched": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
}


def all_files() -> dict[str, str]:
    """Return the text of every file by its path below the root of the built-in data."""
    files = {
        f"glue/{_GLUE[task][0]}/{_GLUE_FILES[split]}": glue_tsv(task, generate(task, split))
        for task, splits in SPLITS.items()
        for split in splits
    }
    for task, (names, write) in _TRIPLES.items():
        files |= {
            f"{task}/{name}": write(generate_entries(task, split))
            for split, name in zip(TRIPLE_SPLITS, names, strict=True)
        }
    return files


def glue_tsv(task: str, rows: list[dict[str, str | int | float]]) -> str:
    """Write rows as GLUE's TSV, which has no quoting.

    Raises:
        ValueError: a text holds a tab or a line end.
    """
    columns = _GLUE[task][1]
    lines = [] if task == "cola" else [list(columns)]  # CoLA's files have no header
    lines += [[_field(task, row, column) for column in columns.values()] for row in rows]
    if broken := [field for line in lines for field in line if set(field) & set("\t\r\n")]:
        raise ValueError(f"{task}: a tab or a line end in {broken[0]!r}")
    return "".join("\t".join(line) + "\n" for line in lines)


def _field(task: str, row: dict[str, str | int | float], column: str) -> str:
    if not column:
        return ""
    if column == "label" and task in _LABELS:
        return _LABELS[task][int(row["label"])]
    return str(row[column])


def _webnlg_jsonl(entries: Iterable[Entry]) -> str:
    lines = []
    for number, entry in enumerate(entries, start=1):
        texts = [{"lid": f"Id{n}", "comment": "good", "text": text} for n, text in enumerate(entry.texts, start=1)]
        line = {"eid": f"Id{number}", "category": entry.category, "size": len(entry.facts)}
        line |= {"modified_triples": entry.facts, "lexicalisations": texts}
        lines.append(json.dumps(line) + "\n")
    return "".join(lines)


def _dart_json(entries: Iterable[Entry]) -> str:
    content = [
        {"tripleset": entry.facts, "annotations": [{"source": "builtin", "text": text} for text in entry.texts]}
        for entry in entries
    ]
    return json.dumps(content, indent=1) + "\n"


def _e2e_csv(entries: Iterable[Entry]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["mr", "ref"])
    for entry in entries:
        meaning = ", ".join(f"{attribute}[{value}]" for _, attribute, value in entry.facts)
        writer.writerows([meaning, text] for text in entry.texts)
    return stream.getvalue()


_TRIPLES: dict[str, tuple[tuple[str, ...], Callable[[Iterable[Entry]], str]]] = {
    "webnlg": (("train.jsonl", "dev.jsonl", "test.jsonl"), _webnlg_jsonl),
    "dart": (tuple(f"dart-v1.1.1-full-{split}.json" for split in ("train", "dev", "test")), _dart_json),
    "e2e": (("trainset.csv", "devset.csv", "testset_w_refs.csv"), _e2e_csv),
}
