"""Means over samples with intervals, or without where the samples are too few for one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visreplay.tasks.statistics import Floats, bootstrap_interval, wilson_interval
from visreplay.tasks.types import Sample

ENOUGH = 6
"""The smallest number of independent samples with intervals. With one less, a difference without
any cause has one sign in all of them in 6 % of cases (2 / 2^5): too often for a 95 % statement."""

DRAWS = 2000

Value = dict[str, Any]
"""An estimate: `mean`, `low` and `high`, each a number or nested lists; without an interval `low`
and `high` are None."""


def group_of(sample: Sample) -> str:
    """Name the set of samples that a sample depends on: its group, or itself."""
    return sample.sample_id if sample.group is None else f"group {sample.group}"


@dataclass(frozen=True)
class Estimator:
    """Estimates means over samples; intervals resample groups of samples that are not independent.

    Attributes:
        groups: The group of each sample (`group_of`).
    """

    groups: Sequence[str]

    @property
    def independent(self) -> int:
        """Number of groups."""
        return len(set(self.groups))

    def mean(self, values: Floats) -> Value:
        """Estimate the mean of each column over rows (samples), with a 95 % bootstrap interval."""
        mean = values.mean(axis=0)
        if self.independent < ENOUGH:
            return _value(mean)
        return _value(mean, *bootstrap_interval(values, draws=DRAWS, groups=self.groups))

    def ratio(self, parts: Floats, wholes: Floats) -> Value:
        """Estimate mean part / mean whole of each column, resampling both together.

        Args:
            parts: A row for each sample.
            wholes: The same shape.
        """
        mean = _divide(parts.mean(axis=0), wholes.mean(axis=0))
        if self.independent < ENOUGH:
            return _value(mean)
        _, place = np.unique(self.groups, return_inverse=True)
        members = [np.flatnonzero(place == group) for group in range(self.independent)]
        rng = np.random.default_rng(0)
        drawn = []
        for _ in range(DRAWS):
            groups = rng.integers(len(members), size=len(members))
            rows = np.concatenate([members[group] for group in groups])
            drawn.append(_divide(parts[rows].mean(axis=0), wholes[rows].mean(axis=0)))
        return _value(mean, *np.quantile(np.stack(drawn), [0.025, 0.975], axis=0))

    def share(self, hits: Floats) -> Value:
        """Estimate the share of samples with a hit, with Wilson's interval.

        The interval counts each group as one sample, which is cautious.
        """
        share, n = float(hits.mean()), self.independent
        if n < ENOUGH:
            return _value(np.array(share))
        low, high = wilson_interval(round(share * n), n)
        return _value(np.array(share), np.array(low), np.array(high))


def _value(mean: Floats, low: Floats | None = None, high: Floats | None = None) -> Value:
    ends = {"low": low, "high": high}
    return {
        "mean": mean.tolist(),
        **{name: None if end is None else end.tolist() for name, end in ends.items()},
    }


def _divide(parts: Floats, wholes: Floats) -> Floats:
    """Divide; nothing of nothing is NaN, without a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(parts / wholes)


def cell(value: Value, *index: int, form: str = ".5f", scale: float = 1.0) -> str:
    """Write an estimate, or one entry of it, with its interval if it has one; "-" for NaN."""
    mean, *ends = (
        _written(scale * float(_entry(each, index)), form)
        for each in (value["mean"], value["low"], value["high"])
        if each is not None
    )
    if mean == "nan":
        return "-"
    return f"{mean} ({' to '.join(ends)})" if ends else mean


def _written(number: float, form: str) -> str:
    """Write a number; the digits of a large one are written out."""
    text = f"{number:{form}}"
    return f"{float(text):,.0f}" if "e+" in text else text


def _entry(values: Any, index: tuple[int, ...]) -> Any:
    for place in index:
        values = values[place]
    return values
