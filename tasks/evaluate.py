"""Run an agent over samples and say how often it was right, with an interval."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from visreplay.agent import Trajectory, VisualAgent
from visreplay.tasks.types import Sample, Task


@dataclass(frozen=True, slots=True)
class Record:
    """One sample's episode, scored.

    Attributes:
        sample_id: Of the sample.
        correct: Whether the answer is the right one, letter case aside.
        trajectory: The episode.
        seconds: Wall time of the episode, drawing the sample aside.
    """

    sample_id: str
    correct: bool
    trajectory: Trajectory
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run over a task comes to.

    Attributes:
        accuracy: Share of right answers.
        low: Lower end of the accuracy's 95 % Wilson interval.
        high: Upper end.
        n: Number of samples.
        mean_steps: Policy turns per episode.
        seconds: Mean wall time of an episode.
    """

    accuracy: float
    low: float
    high: float
    n: int
    mean_steps: float
    seconds: float


def evaluate(
    agent: VisualAgent,
    task: Task,
    seeds: Iterable[int],
    *,
    on_record: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Run one episode for each seed's sample.

    Args:
        agent: Plays the episodes.
        task: Draws the samples.
        seeds: Of the samples; each is the sampling seed of its episode too.
        on_record: Called as each episode ends.
    """
    records = []
    for seed in seeds:
        record = run_sample(agent, task.sample(seed), seed)
        on_record(record)
        records.append(record)
    return records


def run_sample(agent: VisualAgent, sample: Sample, seed: int = 0) -> Record:
    """Play and score one sample."""
    began = perf_counter()
    trajectory = agent.run(sample.question, images=sample.images, video=sample.video, seed=seed)
    return Record(
        sample_id=sample.sample_id,
        correct=is_correct(trajectory.answer, sample.answer),
        trajectory=trajectory,
        seconds=perf_counter() - began,
    )


def is_correct(answer: str | None, expected: str) -> bool:
    """Whether an answer is the expected text, white space at the ends and letter case aside."""
    return answer is not None and answer.strip().casefold() == expected.strip().casefold()


def summarise(records: Sequence[Record]) -> Summary:
    """Accuracy with its interval, steps and seconds of a run.

    Raises:
        ValueError: If there are no records.
    """
    if not records:
        raise ValueError("there are no records to summarise")
    right = sum(record.correct for record in records)
    low, high = wilson_interval(right, len(records))
    return Summary(
        accuracy=right / len(records),
        low=low,
        high=high,
        n=len(records),
        mean_steps=fmean(len(record.trajectory.steps) for record in records),
        seconds=fmean(record.seconds for record in records),
    )


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
    values: NDArray[np.float64], draws: int = 10_000
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % percentile intervals of means over samples, drawn with replacement.

    Args:
        values: One row a sample, of any shape.
        draws: Sets of samples to draw.

    Returns:
        Lower and upper ends, of the shape of a row.
    """
    samples = len(values)
    drawn = np.random.default_rng(0).integers(samples, size=(draws, samples))
    times_drawn = np.apply_along_axis(np.bincount, 1, drawn, minlength=samples)
    means = times_drawn @ values.reshape(samples, -1) / samples
    low, high = np.quantile(means, [0.025, 0.975], axis=0).reshape(2, *values.shape[1:])
    return low, high
