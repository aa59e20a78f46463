"""The built-in data in the package: the rows, and the tokenizers, that the generator makes."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builtin_text import __main__ as command
from builtin_text import glue, layouts, tokenizers, triples
from helpers.glue_files import option
from transformers import PreTrainedTokenizerFast

from mtlora.base.errors import UserError
from mtlora.config.schema import DataConfig
from mtlora.data.encoding import tokenizer_digest
from mtlora.data.files import BUILTIN
from mtlora.data.sources import load_contexts, load_split
from mtlora.plan.cell import compose_cell
from mtlora.train.model.backbones import load_tokenizer

DATA = DataConfig(source="builtin")
LORA_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}  # of E2E's attributes


@pytest.mark.parametrize(("task", "split"), [(task, split) for task in glue.SPLITS for split in glue.SPLITS[task]])
def test_glue_rows(task: str, split: str) -> None:
    rows, names = glue.generate(task, split), [*option(task).text_columns, "label"]
    assert load_split(option(task), DATA, split) == {name: [row[name] for row in rows] for name in names}


@pytest.mark.parametrize("split", triples.TRIPLE_SPLITS)
@pytest.mark.parametrize("task", ["webnlg", "dart", "e2e"])
def test_sentences_and_contexts(task: str, split: str) -> None:
    entries = triples.generate_entries(task, split)
    facts = {
        "webnlg": [" | ".join(f"{s} : {p} : {o}" for s, p, o in entry.facts) for entry in entries],
        "dart": [" | ".join(f"{s} : {p.lower()} : {o}" for s, p, o in entry.facts) for entry in entries],
        "e2e": [" | ".join(f"{LORA_NAMES.get(a, a)} : {v}" for _, a, v in entry.facts) for entry in entries],
    }[task]
    categories = [entry.category if task == "webnlg" else "" for entry in entries]
    expected = [
        (context, text, category)
        for context, entry, category in zip(facts, entries, categories, strict=True)
        for text in entry.texts
    ]
    assert list(zip(*load_split(option(task), DATA, split).values(), strict=True)) == expected
    if split == "test":
        found = [(c.facts, c.references, c.category) for c in load_contexts(option(task), DATA)]
        assert found == list(zip(facts, (entry.texts for entry in entries), categories, strict=True))


def test_texts_that_a_tsv_cannot_hold_are_refused() -> None:
    row = {"sentence": "one\ttwo", "label": 1, "idx": 0}
    with pytest.raises(ValueError, match=r"sst2: a tab or a line end in 'one\\ttwo'"):
        layouts.glue_tsv("sst2", [row])


def test_check_names_files_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(command.differing()) == []
    copy = shutil.copytree(BUILTIN, tmp_path / "builtin")
    monkeypatch.setattr(command, "BUILTIN", copy)
    (copy / "glue/CoLA/dev.tsv.gz").unlink()
    (copy / "dart/more.json").touch()
    shutil.copy(copy / "e2e/devset.csv.gz", copy / "e2e/trainset.csv.gz")
    names = ["dart/more.json", "e2e/trainset.csv.gz", "glue/CoLA/dev.tsv.gz"]
    assert list(command.differing()) == [copy / name for name in names]
    monkeypatch.setattr(sys, "argv", ["builtin_text", "--check"])
    with pytest.raises(UserError, match=r"more\.json and 2 other files differ .*run `python -m tools\.builtin_text`"):
        command.main()


@pytest.mark.parametrize(
    ("name", "task", "make"),
    [("tiny", "rte", tokenizers.word_tokenizer), ("tiny_gpt2", "dart", tokenizers.byte_tokenizer)],
)
def test_tokenizers(name: str, task: str, make: Callable[[], PreTrainedTokenizerFast]) -> None:
    made, loaded = make(), load_tokenizer(compose_cell([f"model={name}", f"task={task}"]).config.model)
    assert made.get_vocab() == make().get_vocab() == loaded.get_vocab()
    assert tokenizer_digest(made) == tokenizer_digest(loaded)
    assert made.special_tokens_map == loaded.special_tokens_map
    assert made.model_max_length == loaded.model_max_length
    texts = ["A cat sat,\n\nunseen £5.", " and  more"]
    assert made(*texts)["input_ids"] == loaded(*texts)["input_ids"]
    if name == "tiny":
        assert loaded("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]
