"""Batches: a partition of the examples, repeatable, of seed-independent lengths, with little padding."""

from itertools import zip_longest

import numpy as np
import pytest
from batches import padding_waste
from helpers.glue_files import REAL, TASKS, option
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora.config.schema import DataConfig
from mtlora.data.batches import BUCKETS, bucket_schedule, epoch_batches, evaluation_batches
from mtlora.data.sources import load_split

lengths_lists = st.lists(st.integers(3, 128), min_size=1, max_size=300).map(np.array)
batch_sizes = st.integers(1, 40)
orders = st.sampled_from(["length", "random"])
numbers = st.integers(0, 10_000)


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def check_partition(batches: list[np.ndarray], n: int, batch_size: int) -> None:
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert len(batches[-1]) == n - batch_size * (len(batches) - 1) > 0


@given(lengths_lists, batch_sizes, orders, numbers, numbers)
def test_partition(lengths: np.ndarray, batch_size: int, order: str, seed: int, epoch: int) -> None:
    check_partition(epoch_batches(lengths, batch_size, order, "rte", seed, epoch), len(lengths), batch_size)


@given(lengths_lists, batch_sizes, orders, numbers)
def test_any_epoch_can_be_recomputed_alone(lengths: np.ndarray, batch_size: int, order: str, seed: int) -> None:
    in_order = [as_lists(epoch_batches(lengths, batch_size, order, "rte", seed, epoch)) for epoch in range(3)]
    np.random.seed(seed)  # the global state plays no part
    assert as_lists(epoch_batches(lengths, batch_size, order, "rte", seed, 2)) == in_order[2]
    assert as_lists(epoch_batches(lengths.copy(), batch_size, order, "rte", seed, 0)) == in_order[0]


@given(st.integers(1, 300), batch_sizes, st.lists(numbers, min_size=2, max_size=3, unique=True), numbers)
@settings(max_examples=50)
def test_seeds_share_the_sequence_of_buckets(n: int, batch_size: int, seeds: list[int], epoch: int) -> None:
    # All lengths differ, so a batch's bucket can be read off its lengths.
    lengths = np.random.default_rng(n).permutation(np.arange(10, 10 + n))
    rank = lengths - 10
    batches = [epoch_batches(lengths, batch_size, "length", "rte", seed, epoch) for seed in seeds]
    assert len({tuple(map(len, of_seed)) for of_seed in batches}) == 1
    widest = -(-(n // batch_size) // min(BUCKETS, max(n // batch_size, 1))) * batch_size + n % batch_size
    for step in zip(*batches, strict=True):
        together = rank[np.concatenate(step)]
        assert np.ptp(together) < widest  # one bucket's worth of neighbours, whatever the seed


@given(lengths_lists, batch_sizes, numbers, numbers)
@settings(max_examples=50)
def test_schedule(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> None:
    n = len(lengths)
    sizes, sequence = bucket_schedule(n, batch_size, np.random.default_rng(epoch))
    assert sizes.sum() == n
    assert len(sizes) <= BUCKETS
    assert np.count_nonzero(sizes % batch_size) == (1 if n % batch_size else 0)
    assert [np.count_nonzero(sequence == bucket) for bucket in range(len(sizes))] == (-(-sizes // batch_size)).tolist()
    if n % batch_size:
        assert sizes[sequence[-1]] % batch_size == n % batch_size


def test_the_incomplete_batch_is_not_always_of_one_length() -> None:
    sequences = [bucket_schedule(500, 8, np.random.default_rng(epoch))[1] for epoch in range(60)]
    assert len({int(sequence[-1]) for sequence in sequences}) > BUCKETS // 2


def test_what_the_order_depends_on() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=400)

    def means(task: str = "rte", seed: int = 0, epoch: int = 0) -> list[float]:
        return [float(lengths[batch].mean()) for batch in epoch_batches(lengths, 8, "length", task, seed, epoch)]

    first = np.array(means())
    assert np.corrcoef(first, means(seed=1))[0, 1] > 0.99  # the seed changes the examples ...
    assert as_lists(epoch_batches(lengths, 8, "length", "rte", 0, 0)) != as_lists(
        epoch_batches(lengths, 8, "length", "rte", 1, 0)
    )
    assert abs(np.corrcoef(first, means(epoch=1))[0, 1]) < 0.6  # ... the epoch and the task the sequence of lengths
    assert abs(np.corrcoef(first, means(task="cola"))[0, 1]) < 0.6
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.6  # and no epoch runs from short to long


@pytest.mark.parametrize("order", ["random", "length"])
def test_tasks_share_no_order(order: str) -> None:
    lengths = np.full(400, 9)  # one length, so that only the random numbers tell the tasks apart
    rte, cola = (np.concatenate(epoch_batches(lengths, 8, order, task, 0, 0)) for task in ("rte", "cola"))
    assert np.mean(rte == cola) < 0.03  # 1 of 400 by chance
    assert abs(np.corrcoef(rte, cola)[0, 1]) < 0.2


def test_examples_meet_different_examples() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=800)
    partners: set[int] = set()
    for epoch in range(20):
        (batch,) = [b for b in epoch_batches(lengths, 4, "length", "rte", 0, epoch) if 17 in b]
        partners.update(batch.tolist())
    # A bucket holds about 800 / 24 = 33 examples; ties at its ends let in a few others.
    assert len(partners) > 20


def test_equal_lengths_are_a_plain_shuffle_across_buckets() -> None:
    first = [set(b.tolist()) for b in epoch_batches(np.full(480, 9), 10, "length", "rte", 0, 0)[:2]]
    others = [epoch_batches(np.full(480, 9), 10, "length", "rte", 0, epoch) for epoch in range(1, 200)]
    together = sum(any(len(first[0] & set(b.tolist())) >= 4 for b in batches) for batches in others)
    assert together < 20  # a fixed bucket of 20 would bring four of ten together almost always


@given(lengths_lists, batch_sizes)
def test_evaluation(lengths: np.ndarray, batch_size: int) -> None:
    batches = evaluation_batches(lengths, batch_size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch, following in zip_longest(batches, batches[1:]):
        longest = lengths[batch].max()
        assert len(batch) <= batch_size
        assert lengths[batch].min() >= 0.8 * longest
        assert following is None or len(batch) == batch_size or lengths[following].max() < 0.8 * longest
    assert lengths[np.concatenate(batches)].tolist() == sorted(lengths.tolist(), reverse=True)
    assert as_lists(batches) == as_lists(evaluation_batches(lengths, batch_size))


def test_padding_waste_by_hand() -> None:
    lengths = np.array([2, 4, 3, 3])
    assert padding_waste(lengths, [np.array([0, 1]), np.array([2, 3])]) == (4 + 4 + 3 + 3) / 12


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data: {REAL} is absent")
@pytest.mark.parametrize("name", TASKS)
def test_padding_on_real_lengths(name: str) -> None:
    # Words stand in for tokens: it is the shape of the distribution that counts. 110 words are about 128 tokens.
    task = option(name)
    rows = load_split(task, DataConfig(source="local", root=str(REAL), subset=True), "train")
    columns = [rows[column] for column in task.text_columns]
    lengths = np.array(
        [min(sum(len(text.split()) + 1 for text in texts) + 1, 110) for texts in zip(*columns, strict=True)]
    )
    for batch_size in (16, 32):
        waste = padding_waste(lengths, epoch_batches(lengths, batch_size, "length", name, 0, 0))
        assert 1 <= waste <= 1.12
        assert waste < padding_waste(lengths, epoch_batches(lengths, batch_size, "random", name, 0, 0)) - 0.2
