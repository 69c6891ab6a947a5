"""Estimates with their intervals: proportions, pass@k, means over samples, paired differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_DRAWN_AT_ONCE = 1000
"""Bootstrap draws that are held at a time: what bounds the memory on thousands of samples."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: The number.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def percent(self) -> str:
        """As tables show a share."""
        return f"{100 * self.value:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f})"


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (E. B. Wilson, JASA 22, 1927).

    Raises:
        ValueError: If `right` is not between 0 and `n`, or `n` is 0.
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"{right} of {n} is not a proportion")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if right == 0 else (centre - half) / scale
    high = 1.0 if right == n else (centre + half) / scale
    return low, high


def pass_at_k(n: int, right: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k rollouts is right (arXiv 2107.03374, eq. 1).

    Args:
        n: Rollouts of the sample.
        right: How many of them are right.
        k: How many may be drawn.

    Raises:
        ValueError: If k is greater than n, or the counts make no sense.
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} rollouts; there are {n}, {right} right")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def bootstrap_interval(
    values: Floats, draws: int = 10_000, groups: Sequence[str] | None = None
) -> tuple[Floats, Floats]:
    """95 % percentile intervals of means over samples, drawn with replacement.

    Args:
        values: One row a sample, of any shape.
        draws: Sets of samples to draw.
        groups: Of each sample, where samples of one group are not independent: then groups are
            drawn, with all of their samples (the cluster bootstrap).

    Returns:
        Lower and upper ends, of the shape of a row.
    """
    rows = values.reshape(len(values), -1)
    names = range(len(rows)) if groups is None else groups
    _, of_row = np.unique(np.asarray(names), return_inverse=True)
    counts = np.bincount(of_row)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, of_row, rows)
    samples = len(sums)
    rng = np.random.default_rng(0)
    means = []
    for start in range(0, draws, _DRAWN_AT_ONCE):
        size = (min(_DRAWN_AT_ONCE, draws - start), samples)
        drawn = rng.integers(samples, size=size)
        times_drawn = np.apply_along_axis(np.bincount, 1, drawn, minlength=samples)
        means.append(times_drawn @ sums / (times_drawn @ counts)[:, None])
    ends = np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)
    low, high = ends.reshape(2, *values.shape[1:])
    return low, high


def estimates(values: Floats, groups: Sequence[str] | None = None) -> list[Estimate]:
    """The mean of every column, with its bootstrap interval over rows (samples)."""
    low, high = bootstrap_interval(values, groups=groups)
    return [
        Estimate(*map(float, each)) for each in zip(values.mean(axis=0), low, high, strict=True)
    ]


def mcnemar_p(gained: int, lost: int) -> float:
    """Two-sided exact p of McNemar's test: may as many flips be chance? (Psychometrika 12, 1947).

    Args:
        gained: Samples that are right in the second run alone.
        lost: Samples that are right in the first run alone.
    """
    flips = gained + lost
    tail = sum(math.comb(flips, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << flips))
