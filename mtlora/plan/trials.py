"""The scores of the learning-rate factors that a method has tried in `mtlora.tune`: the best one, and how sure the choice is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtlora.base.streams import numpy_stream

RESAMPLES = 2000


@dataclass(frozen=True)
class TrialScores:
    """The scores of one method on the tasks of a group: (factors, tasks, seeds), higher is better."""

    factors: Sequence[float]
    values: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """The mean over tasks and seeds of each factor."""
        return self.values.mean((1, 2))

    @property
    def best(self) -> int:
        """The index of the best factor; of equal ones the nearest to 1."""
        order = sorted(range(len(self.factors)), key=lambda i: (-self.means[i], abs(math.log(self.factors[i]))))
        return order[0]

    @property
    def second(self) -> int:
        """The index of the second best factor: the one that most of the other resamples choose, else that of the next mean."""
        shares, means = self.shares(), self.means
        rest = [i for i in range(len(self.factors)) if i != self.best]
        return max(rest, key=lambda i: (shares[i], means[i])) if rest else self.best

    def difference(self, i: int, j: int) -> tuple[float, float]:
        """Return the mean difference of two factors, and its standard error over the seeds: the tasks are given."""
        paired = self.values[i] - self.values[j]
        if not np.isfinite(paired).all():
            return float(paired.mean()), 0.0
        tasks, seeds = paired.shape
        return float(paired.mean()), float(np.sqrt((paired.var(1, ddof=1) / seeds).sum()) / tasks)

    @property
    def is_close(self) -> bool:
        """Whether a neighbour of the best factor is within one standard error of it."""
        neighbours = [i for i in (self.best - 1, self.best + 1) if 0 <= i < len(self.factors)]
        found = [self.difference(self.best, i) for i in neighbours]
        return any(mean <= error for mean, error in found)

    def shares(self) -> np.ndarray:
        """Return how often each factor is the best, among resamples of the seeds of each task; the factors share the seeds."""
        random = numpy_stream(0, "", "tuning")
        count, tasks, seeds = self.values.shape
        drawn = random.integers(0, seeds, (RESAMPLES, tasks, seeds))
        means = np.stack([self.values[i][np.arange(tasks)[:, None], drawn].mean((1, 2)) for i in range(count)])
        # Several factors can tie in every resample, for example if their scores are equal: then the choice of `best` counts.
        means[self.best] += 1e-9
        return np.bincount(means.argmax(0), minlength=count) / RESAMPLES
