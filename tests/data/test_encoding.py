"""Tokenised data: what is encoded, what the cache key covers, damaged caches, and batches as tensors."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.glue_files import option
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mtlora.base.errors import UserError
from mtlora.config.schema import TaskConfig
from mtlora.data import encoding
from mtlora.data.encoding import Encoded, collate, encode

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "dog", "ran", "far"]
PAD, UNK, CLS, SEP, THE, CAT, SAT, DOG, RAN, FAR = range(len(WORDS))


def make_tokenizer(words: list[str] = WORDS, typed: bool = True) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with BERT's template for pairs."""
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"] if typed else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_input_names=names
    )


RTE = [("the cat sat", "cat sat"), ("a dog ran far", "the"), ("", "far")], [0, 1, 0]


def encode_rows(
    texts: list[tuple[str, ...]],
    labels: list[Any],
    cache: Path,
    task: TaskConfig | None = None,
    tokenizer: Any = None,
    max_length: int = 32,
    split: str = "train",
    key: str = "data",
) -> Encoded:
    """Encode rows, of RTE if nothing else is said."""
    task = task or option("rte")
    columns = dict(zip(task.text_columns, map(list, zip(*texts, strict=True)), strict=True)) | {"label": labels}
    return encode(lambda: columns, task, split, tokenizer or make_tokenizer(), max_length, cache, key)


def token_files(cache: Path) -> list[Path]:
    return sorted((cache / "tokens").iterdir())


def example(encoded: Encoded, index: int) -> list[int]:
    return encoded.input_ids[encoded.offsets[index] : encoded.offsets[index + 1]].tolist()


def test_pairs_by_hand(tmp_path: Path) -> None:
    encoded = encode_rows(*RTE, tmp_path)
    assert len(encoded) == 3
    assert example(encoded, 0) == [CLS, THE, CAT, SAT, SEP, CAT, SAT, SEP]
    assert example(encoded, 1) == [CLS, UNK, DOG, RAN, FAR, SEP, THE, SEP]
    assert example(encoded, 2) == [CLS, SEP, FAR, SEP]
    assert encoded.token_type_ids is not None
    assert encoded.token_type_ids.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1]
    assert encoded.lengths.tolist() == [8, 8, 4]
    assert encoded.labels.tolist() == [0, 1, 0]
    dtypes = [encoded.input_ids.dtype, encoded.token_type_ids.dtype, encoded.offsets.dtype, encoded.labels.dtype]
    assert dtypes == [np.int32, np.int8, np.int64, np.int64]


def test_scores_single_texts_and_models_without_types(tmp_path: Path) -> None:
    encoded = encode_rows([("the", "cat")], [4.8], tmp_path, option("stsb"), make_tokenizer(typed=False))
    assert encoded.labels.dtype == np.float32
    assert encoded.token_type_ids is None
    assert example(encode_rows([("the dog",)], [1], tmp_path, option("sst2")), 0) == [CLS, THE, DOG, SEP]


def test_the_longer_text_is_cut_first(tmp_path: Path) -> None:
    texts = [("cat", "the dog ran far"), ("the dog ran far", "cat"), ("far", "far")]
    encoded = encode_rows(texts, [0, 1, 0], tmp_path, max_length=6)
    assert example(encoded, 0) == [CLS, CAT, SEP, THE, DOG, SEP]
    assert example(encoded, 1) == [CLS, THE, DOG, SEP, CAT, SEP]
    assert example(encoded, 2) == [CLS, FAR, SEP, FAR, SEP]


def test_many_examples_span_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PROGRESS_FROM", 5)  # the progress display changes nothing and writes nothing here
    monkeypatch.setattr(encoding, "CHUNK", 3)
    texts = [(" ".join(["cat"] * n),) for n in range(1, 11)]
    encoded = encode_rows(texts, [n % 2 for n in range(10)], tmp_path, option("sst2"), max_length=64)
    assert encoded.lengths.tolist() == [n + 2 for n in range(1, 11)]
    assert encoded.labels.tolist() == [n % 2 for n in range(10)]


def test_second_call_reads_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = encode_rows(*RTE, tmp_path)
    monkeypatch.setattr(encoding, "_tokenise", lambda *_: pytest.fail("tokenised again"))
    tokenizer = make_tokenizer()
    tokenizer(
        "the cat", "sat", truncation=True, max_length=5, padding="max_length"
    )  # a call leaves its settings behind
    unread = lambda: pytest.fail("read again")  # noqa: E731
    second = encode(unread, option("rte"), "train", tokenizer, 32, tmp_path, "data")
    for name in ("input_ids", "token_type_ids", "offsets", "labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), strict=True)
    assert capfd.readouterr() == ("", "")


def test_key_covers_everything_that_matters(tmp_path: Path) -> None:
    task, tokenizer = option("rte"), make_tokenizer()
    swapped, relabelled = option("rte"), option("rte")
    swapped.text_columns = task.text_columns[::-1]
    relabelled.labels = task.labels[::-1]
    variants = [
        (task, tokenizer, 32, "train", "data"),
        (task, tokenizer, 31, "train", "data"),
        (task, tokenizer, 32, "train", "other data"),
        (task, make_tokenizer([*WORDS, "new"]), 32, "train", "data"),
        (task, make_tokenizer(typed=False), 32, "train", "data"),
        (swapped, tokenizer, 32, "train", "data"),
        (relabelled, tokenizer, 32, "train", "data"),
        (task, tokenizer, 32, "validation", "data"),
    ]
    for count, variant in enumerate(variants, start=1):
        encode_rows(*RTE, tmp_path, *variant)
        assert len(token_files(tmp_path)) == count


def test_every_damaged_byte_is_noticed_or_harmless(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = encode_rows(*RTE, tmp_path)
    (file,) = token_files(tmp_path)
    content = file.read_bytes()
    for position in range(0, len(content), 7):
        file.write_bytes(content[:position] + bytes([content[position] ^ 0x15]) + content[position + 1 :])
        read = encode_rows(*RTE, tmp_path)
        for name in ("input_ids", "token_type_ids", "offsets", "labels"):
            np.testing.assert_array_equal(getattr(good, name), getattr(read, name))
    assert len(caplog.messages) > 10
    assert set(caplog.messages) == {f"the cache file {file} is corrupt: it is made again from the data"}
    for cut in (0, 4, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:cut])
        caplog.clear()
        encode_rows(*RTE, tmp_path)
        assert len(caplog.messages) == 1
        assert file.read_bytes() == content


def test_concurrent_writers(tmp_path: Path) -> None:
    results = []
    barrier = threading.Barrier(4)

    def work() -> None:
        tokenizer = make_tokenizer()
        barrier.wait()
        results.append(encode_rows(*RTE, tmp_path, tokenizer=tokenizer).input_ids.tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(result == results[0] for result in results)
    (file,) = token_files(tmp_path)  # and no temporary file is left
    assert file.suffix == ".parquet"


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        encode_rows(*RTE, tmp_path)
    assert token_files(tmp_path) == []


def test_refuses_slow_tokenizers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="object has no fast version"):
        encode_rows(*RTE, tmp_path, tokenizer=object())


def ragged(lengths: list[int], typed: bool = True) -> Encoded:
    tokens = sum(lengths)
    return Encoded(
        input_ids=np.arange(1, tokens + 1, dtype=np.int32),
        token_type_ids=(np.arange(tokens) % 2).astype(np.int8) if typed else None,
        offsets=np.cumsum([0, *lengths]),
        labels=np.arange(len(lengths), dtype=np.int64),
    )


def test_collate_by_hand() -> None:
    batch = collate(ragged([2, 3, 1]), np.array([2, 0]), 99, "longest", 16)
    assert batch["input_ids"].tolist() == [[6, 99], [1, 2]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["token_type_ids"].tolist() == [[1, 0], [0, 1]]
    assert batch["labels"].tolist() == [2, 0]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert "token_type_ids" not in collate(ragged([2], typed=False), np.array([0]), 0, "longest", 16)


@pytest.mark.parametrize(
    ("padding", "max_length", "width"), [("longest", 16, 5), ("longest", 5, 5), ("max_length", 16, 16)]
)
def test_collate_width(padding: str, max_length: int, width: int) -> None:
    batch = collate(ragged([5, 2]), np.array([0, 1]), 0, padding, max_length)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, width)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_collate_agrees_with_a_loop(lengths: list[int], data: st.DataObject) -> None:
    encoded = ragged(lengths)
    indices = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    batch = collate(encoded, np.array(indices), 0, "longest", 9)
    width = max(lengths[i] for i in indices)
    for row, i in enumerate(indices):
        tokens = example(encoded, i)
        assert batch["input_ids"][row].tolist() == tokens + [0] * (width - len(tokens))
        assert batch["attention_mask"][row].tolist() == [1] * len(tokens) + [0] * (width - len(tokens))
    assert batch["labels"].tolist() == indices


def test_the_lengths_of_a_large_split_are_computed_once() -> None:
    encoded = ragged([3, 1, 4])
    assert encoded.lengths is encoded.lengths
