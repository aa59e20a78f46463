"""The examples of each batch, as pure functions of (lengths, task, seed, epoch), so that a resumed run can skip those done."""

import numpy as np

from mtlora.base.streams import numpy_stream

SIMILAR = 0.8  # the shortest text of an evaluation batch has at least this share of the longest one's length
BUCKETS = 24  # with so many, padding is below 12% on every GLUE task (batches of 16 and 32, at most 128 tokens)


def epoch_batches(
    lengths: np.ndarray, batch_size: int, order: str, task: str, seed: int, epoch: int
) -> list[np.ndarray]:
    """Return the batches of one epoch: every example once, the one incomplete batch (if any) last.

    With `order="random"` the batches are slices of one random permutation.

    With `order="length"` the examples, sorted by length, form buckets of neighbours (equal lengths in random order).
    Which bucket a step draws from depends on (task, epoch, number of examples, batch size) and not on the seed, so that
    runs of a task with different seeds see batches of about the same length at every step and can train in lock-step; the seed
    picks the examples within the buckets.

    Args:
        lengths: (n,) tokens per example.
        batch_size: examples per batch.
        order: `length` or `random`.
        task: the name of the task.
        seed: the seed of the run.
        epoch: the number of the epoch, from 0.

    Returns:
        Arrays of example indices, int64.
    """
    stream = numpy_stream(seed, task, "order", str(epoch))
    shuffled = stream.permutation(len(lengths))
    if order == "random":
        return _cut(shuffled, batch_size)
    by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    schedule = numpy_stream(0, task, "buckets", f"{epoch} {len(lengths)} {batch_size}")
    sizes, sequence = bucket_schedule(len(lengths), batch_size, schedule)
    buckets = np.split(by_length, np.cumsum(sizes)[:-1])
    waiting = [iter(_cut(stream.permutation(bucket), batch_size)) for bucket in buckets]
    return [next(waiting[bucket]) for bucket in sequence]


def bucket_schedule(n: int, batch_size: int, stream: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw an epoch's buckets: their sizes in examples, shortest texts first, and the bucket of each step's batch.

    Every bucket is a whole number of batches. The incomplete batch comes last; its bucket is drawn too, because otherwise
    it would always have the longest texts.
    """
    whole, rest = divmod(n, batch_size)
    bounds = np.linspace(0, whole, min(BUCKETS, max(whole, 1)) + 1).round().astype(np.int64)
    batches = bounds[1:] - bounds[:-1]  # per bucket
    sequence = stream.permutation(np.repeat(np.arange(len(batches)), batches))
    sizes = batches * batch_size
    if rest:
        incomplete = stream.integers(len(batches))
        sizes[incomplete] += rest
        sequence = np.append(sequence, incomplete)
    return sizes, sequence


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return every example once, in batches of similar length, longest first, so that a lack of memory shows at once.

    A batch ends at `batch_size` examples, or before an example that is shorter than `SIMILAR` times its longest.
    """
    longest_first = np.argsort(-lengths, kind="stable")
    starts = [0]
    for position, length in enumerate(lengths[longest_first]):
        start = starts[-1]
        if position - start == batch_size or length < SIMILAR * lengths[longest_first[start]]:
            starts.append(position)
    return np.split(longest_first, starts[1:])


def _cut(examples: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return np.split(examples, range(batch_size, len(examples), batch_size))


def sample_rows(n: int, limit: int | None, purpose: str, task: str) -> np.ndarray:
    """Return all n row numbers, or a sorted sample of `limit` of them that is the same for every seed and method."""
    if limit is None or limit >= n:
        return np.arange(n)
    return np.sort(numpy_stream(0, task, purpose).permutation(n)[:limit])
