"""Summaries of records: accuracy, avg@k, pass@k and CoT-pass@k with their intervals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from visreplay.tasks.evaluation.problem_scores import strict_scores
from visreplay.tasks.evaluation.runs import SampleRecord
from visreplay.tasks.statistics import Estimate, Floats, estimates, pass_at_k, wilson_interval


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a run, or of a part of it.

    Attributes:
        n: Number of samples, without those that ended in an error.
        errors: Number of samples that ended in an error.
        rollouts: Episodes per sample.
        metrics: Shares with their 95 % intervals, by name. With one rollout, "accuracy"; with K
            rollouts, "avg@K" and "pass@1" to "pass@K"; with a checker of the reasoning, also
            "CoT-pass@1" to "CoT-pass@K"; for We-Math also "strict score", over the problems of
            which all questions are scored.
        mean_steps: Mean number of policy turns in an episode.
        seconds: Mean wall time of a sample, in seconds.
    """

    n: int
    errors: int
    rollouts: int
    metrics: dict[str, Estimate]
    mean_steps: float
    seconds: float

    @property
    def first(self) -> str:
        """The name of the share of right rollouts: "accuracy", or "avg@K"."""
        return "accuracy" if self.rollouts == 1 else f"avg@{self.rollouts}"

    @property
    def accuracy(self) -> Estimate:
        """The share of right rollouts."""
        return self.metrics[self.first]


STRICT_SCORE = "strict score"
"""The name of We-Math's score (`problem_scores`)."""


def summarise(
    records: Iterable[SampleRecord], *, with_cot: bool = False, task: str | None = None
) -> Summary:
    """Summarise the records of a run, or of a part of it.

    Args:
        records: Records with the same number of rollouts each.
        with_cot: Whether a checker looked at the reasoning of right answers.
        task: The name of the task, for a score of its own.

    Raises:
        ValueError: No record has a rollout, or their numbers of rollouts differ.
    """
    everything = list(records)
    scored = [record for record in everything if record["error"] is None]
    counts = {len(record["rollouts"]) for record in scored}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            f"{len(everything)} records cannot be summarised: {len(scored)} are without an error, "
            f"and they have {sorted(counts)} rollouts"
        )
    episodes = [rollout["trajectory"] for record in scored for rollout in record["rollouts"]]
    (rollouts,) = counts
    metrics = _metrics(scored, rollouts, with_cot)
    if task == "we-math" and len(problems := strict_scores(scored)):
        (metrics[STRICT_SCORE],) = estimates(problems[:, None])
    return Summary(
        n=len(scored),
        errors=len(everything) - len(scored),
        rollouts=rollouts,
        metrics=metrics,
        mean_steps=fmean(len(episode["steps"]) for episode in episodes),
        seconds=fmean(record.get("seconds", 0.0) for record in scored),
    )


def by_category(records: Iterable[SampleRecord]) -> dict[str, list[SampleRecord]]:
    """Group records by category, in the order of the names; records without one are left out."""
    parts: dict[str, list[SampleRecord]] = {}
    for record in records:
        if record["category"] is not None:
            parts.setdefault(record["category"], []).append(record)
    return dict(sorted(parts.items()))


def right_count(record: SampleRecord, *, with_cot: bool = False) -> int:
    """Count the right rollouts of a sample; `with_cot`, those whose reasoning is right too."""
    return sum(
        rollout["right"] and (bool(rollout["cot_right"]) or not with_cot)
        for rollout in record["rollouts"]
    )


def pass_rates(records: Sequence[SampleRecord], k: int, *, with_cot: bool = False) -> Floats:
    """Estimate pass@k of every sample, `(samples,)`.

    Args:
        records: The records of the samples.
        k: Number of rollouts that may be drawn.
        with_cot: Count only right reasoning, for CoT-pass@k (arXiv 2506.14245).
    """
    return np.array(
        [
            pass_at_k(len(record["rollouts"]), right_count(record, with_cot=with_cot), k)
            for record in records
        ]
    )


def groups_of(records: Sequence[SampleRecord]) -> list[str] | None:
    """Name the group of every record; None where each is independent of all others."""
    names = [record.get("group") for record in records]
    if len({name for name in names if name is not None}) + names.count(None) == len(names):
        return None
    # A record without a group is a group of its own: no other name begins like this.
    return [f"\0{number}" if name is None else name for number, name in enumerate(names)]


def replays(records: Iterable[SampleRecord]) -> list[Mapping[str, Any]]:
    """List the replay reports of all steps that had low-entropy positions."""
    steps = (
        step["replay"]
        for record in records
        for rollout in record["rollouts"]
        for step in rollout["trajectory"]["steps"]
    )
    return [report for report in steps if report and report["kl_before"] is not None]


def _metrics(records: Sequence[SampleRecord], rollouts: int, with_cot: bool) -> dict[str, Estimate]:
    ks = range(1, rollouts + 1)
    columns: dict[str, Floats] = {}
    if rollouts > 1:
        columns[f"avg@{rollouts}"] = pass_rates(records, 1)  # pass@1 is the mean
        columns |= {f"pass@{k}": pass_rates(records, k) for k in ks}
    if with_cot:
        columns |= {f"CoT-pass@{k}": pass_rates(records, k, with_cot=True) for k in ks}
    metrics: dict[str, Estimate] = {}
    groups = groups_of(records)
    if rollouts == 1 and groups is not None:
        columns["accuracy"] = pass_rates(records, 1)
    elif rollouts == 1:
        # A proportion: Wilson's interval does not shrink to nothing where all are right.
        right = sum(right_count(record) for record in records)
        metrics["accuracy"] = Estimate(right / len(records), *wilson_interval(right, len(records)))
    if columns:
        intervals = estimates(np.stack(list(columns.values()), axis=1), groups)
        metrics |= dict(zip(columns, intervals, strict=True))
    return metrics
