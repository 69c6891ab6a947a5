"""Estimates and their intervals: proportions, pass@k, means over samples, paired differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_DRAWS_AT_ONCE = 1000
"""Bootstrap draws that are held at a time; this bounds the memory for thousands of samples."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: The number.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float

    @property
    def percent(self) -> str:
        """The share and its interval in percent, as tables show them."""
        return f"{100 * self.value:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f})"


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval of a proportion (E. B. Wilson, JASA 22, 1927).

    Args:
        right: Number of right samples.
        n: Number of samples.
        confidence: Probability that the interval covers the proportion.

    Raises:
        ValueError: `right` is not between 0 and `n`, or `n` is 0.
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
    """Estimate without bias the chance that one of k rollouts is right (arXiv 2107.03374, eq. 1).

    Examples:
        >>> pass_at_k(n=4, right=1, k=2)
        0.5

    Args:
        n: Number of rollouts of the sample.
        right: Number of right ones among them.
        k: Number of rollouts that may be drawn.

    Raises:
        ValueError: k is greater than n, or a count is out of its range.
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} rollouts; there are {n}, {right} right")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def bootstrap_interval(
    values: Floats,
    draws: int = 10_000,
    groups: Sequence[str] | None = None,
    bounds: tuple[float, float] | None = None,
) -> tuple[Floats, Floats]:
    """Compute 95 % percentile intervals of means over samples, drawn with replacement.

    A bootstrap knows only the values that occurred: where all samples are right, it has no width.
    With `bounds`, an interval is at least as wide as what may have been missed: of n samples, a
    value that none of them has may still have a share of up to `1 - 0.025 ** (1 / n)`, and may be
    as low or as high as the bounds. This is Clopper and Pearson's limit for no event among n
    (Biometrika 26, 1934; Hanley and Lippman-Hand, JAMA 249, 1983).

    Args:
        values: A row per sample, `(samples, ...)`.
        draws: Number of sets of samples to draw.
        groups: The group of each sample, where samples of one group are not independent. Whole
            groups are drawn then (the cluster bootstrap), and n counts groups.
        bounds: The lowest and the highest value that a sample can have, if there are such.

    Returns:
        Lower and upper ends, each of the shape of a row. Without bounds, a single sample or group
        says nothing about the spread: the ends are infinite.
    """
    rows = values.reshape(len(values), -1)
    names = range(len(rows)) if groups is None else groups
    _, group_of_row = np.unique(np.asarray(names), return_inverse=True)
    counts = np.bincount(group_of_row)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, group_of_row, rows)
    samples = len(sums)
    rng = np.random.default_rng(0)
    means = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        size = (min(_DRAWS_AT_ONCE, draws - start), samples)
        draw = rng.integers(samples, size=size)
        times_drawn = np.apply_along_axis(np.bincount, 1, draw, minlength=samples)
        means.append(times_drawn @ sums / (times_drawn @ counts)[:, None])
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)
    if bounds is not None:
        missed = 1 - 0.025 ** (1 / samples)
        mean = rows.mean(axis=0)
        low = np.minimum(low, mean - missed * (mean - bounds[0]))
        high = np.maximum(high, mean + missed * (bounds[1] - mean))
    elif samples == 1:
        low, high = np.full_like(low, -np.inf), np.full_like(high, np.inf)
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def crossed_interval(
    values: Floats, strata: Sequence[str], draws: int = 10_000
) -> tuple[float, float]:
    """Compute the 95 % percentile interval of a mean over models and samples, both drawn anew.

    All models were measured on the same samples, so neither the rows nor the cells are
    independent: rows and columns are drawn with replacement, each by themselves (the pigeonhole
    bootstrap; Owen, Annals of Applied Statistics 1, 2007). It covers other training seeds and
    other samples. With few models in a stratum it is somewhat too narrow: n models vary by
    (n - 1) / n of what they should.

    Args:
        values: `(models, samples)`.
        strata: The stratum of each model; models are drawn within their stratum, such as the
            base that they were trained from.
        draws: Number of sets to draw.
    """
    models, samples = values.shape
    rng = np.random.default_rng(0)
    weights = np.zeros((draws, models))
    for stratum in dict.fromkeys(strata):
        members = [index for index, each in enumerate(strata) if each == stratum]
        count = len(members)
        weights[:, members] = rng.multinomial(count, [1 / count] * count, draws)
    means = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        chosen = weights[start : start + _DRAWS_AT_ONCE]
        times = rng.multinomial(samples, [1 / samples] * samples, len(chosen))
        means.append((chosen @ values * times).sum(axis=1) / (models * samples))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def estimates(
    values: Floats,
    groups: Sequence[str] | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> list[Estimate]:
    """Estimate the mean of every column, with its bootstrap interval over rows (samples).

    Args:
        values: A row per sample and a column per mean, `(samples, columns)`.
        groups: As in `bootstrap_interval`.
        bounds: As in `bootstrap_interval`; differences of shares lie in (-1, 1).
    """
    low, high = bootstrap_interval(values, groups=groups, bounds=bounds)
    return [
        Estimate(*map(float, each)) for each in zip(values.mean(axis=0), low, high, strict=True)
    ]


def mcnemar_p(gained: int, lost: int) -> float:
    """Compute the two-sided exact p of McNemar's test (Psychometrika 12, 1947).

    It is the probability that samples flip by chance in a way at least as one-sided.

    Args:
        gained: Number of samples that are right in the second run alone.
        lost: Number of samples that are right in the first run alone.
    """
    flips = gained + lost
    tail = sum(math.comb(flips, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << flips))
