"""Play an agent on a task's samples, score it, and say how often it was right.

A sample that fails, in loading, playing or scoring, gives a record with its error and no rollouts:
it is counted apart, and never as an answer.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from visreplay.agent.episode.trajectory import Trajectory
from visreplay.tasks.evaluation.runs import Record, Rollout, record_of, rollout_of
from visreplay.tasks.statistics import Estimate, Floats, estimates, pass_at_k, wilson_interval
from visreplay.tasks.types import Sample, Task

if TYPE_CHECKING:
    from visreplay.agent import VisualAgent

Checker = Callable[[Sample, Trajectory], bool]
"""Whether the reasoning behind a right answer is right too."""


def evaluate(
    agent: "VisualAgent",
    task: Task,
    ids: Iterable[str],
    *,
    rollouts: int = 1,
    seed: int = 0,
    cot_checker: Checker | None = None,
) -> Iterator[Record]:
    """Play and score samples, one after the other, each when its record is asked for.

    Args:
        agent: Plays the episodes.
        task: Loads and scores the samples.
        ids: Of the samples.
        rollouts: Episodes a sample; they share reading and replay as long as they are alike.
        seed: Of sampling; every rollout's own seed follows from it.
        cot_checker: Is asked about every right answer.
    """
    for sample_id in ids:
        seeds = [rollout_seed(seed, sample_id, number) for number in range(rollouts)]
        yield play(agent, task, sample_id, seeds, cot_checker)


def rollout_seed(seed: int, sample_id: str, number: int) -> int:
    """The seed of one rollout: the same whatever else is played, and in whatever order."""
    words = hashlib.sha256(f"{seed}\0{number}\0{sample_id}".encode("utf-8", "replace"))
    return int.from_bytes(words.digest()[:4], "big")


def play(
    agent: "VisualAgent",
    task: Task,
    sample_id: str,
    seeds: Sequence[int],
    cot_checker: Checker | None = None,
) -> Record:
    """The record of one sample, with a rollout for every seed."""
    record: Record = {
        "sample_id": sample_id,
        "question": None,
        "expected": None,
        "category": None,
        "error": None,
        "rollouts": [],
    }
    try:
        sample = task.load(sample_id)
        record = record_of(sample, [])
        began = perf_counter()
        played = agent.rollouts(sample.question, seeds, images=sample.images, video=sample.video)
        record["rollouts"] = [_scored(task, sample, each, cot_checker) for each in played]
        record["seconds"] = perf_counter() - began
    except Exception as error:  # whatever it is, out of memory say, the other samples go on
        record["error"] = f"{type(error).__name__}: {error}"[:2000]
    finally:
        # No other sample has its conversations; after an error they may be what fills the memory.
        agent.close()
    return record


def _scored(
    task: Task, sample: Sample, trajectory: Trajectory, cot_checker: Checker | None
) -> Rollout:
    right = bool(task.is_right(sample, trajectory.answer))
    checked = right and cot_checker is not None
    cot_right = bool(cot_checker(sample, trajectory)) if checked and cot_checker else None
    return rollout_of(trajectory, right=right, cot_right=cot_right)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run over a task comes to.

    Attributes:
        n: Number of samples, errors left out.
        errors: Number of samples that ended in an error.
        rollouts: Episodes a sample.
        metrics: Shares with their 95 % intervals: "accuracy" of one rollout, or else "avg@K" and
            "pass@1" to "pass@K"; "CoT-pass@1" to "CoT-pass@K" where a checker was asked.
        mean_steps: Policy turns an episode.
        seconds: Mean wall time of a sample.
    """

    n: int
    errors: int
    rollouts: int
    metrics: dict[str, Estimate]
    mean_steps: float
    seconds: float

    @property
    def first(self) -> str:
        """What the share of right rollouts is called: "accuracy", or "avg@K"."""
        return "accuracy" if self.rollouts == 1 else f"avg@{self.rollouts}"

    @property
    def accuracy(self) -> Estimate:
        """The share of right rollouts."""
        return self.metrics[self.first]


def summarise(records: Iterable[Record], *, with_cot: bool = False) -> Summary:
    """Sum up the records of a run, or of a part of it.

    Args:
        records: With equally many rollouts each.
        with_cot: A checker was asked about right answers.

    Raises:
        ValueError: If no record has a rollout, or their numbers differ.
    """
    everything = list(records)
    scored = [record for record in everything if record["error"] is None]
    counts = {len(record["rollouts"]) for record in scored}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            f"{len(everything)} records cannot be summarised: {len(scored)} are no errors, with "
            f"{sorted(counts)} rollouts"
        )
    episodes = [rollout["trajectory"] for record in scored for rollout in record["rollouts"]]
    (rollouts,) = counts
    return Summary(
        n=len(scored),
        errors=len(everything) - len(scored),
        rollouts=rollouts,
        metrics=_metrics(scored, rollouts, with_cot),
        mean_steps=fmean(len(episode["steps"]) for episode in episodes),
        seconds=fmean(record.get("seconds", 0.0) for record in scored),
    )


def by_category(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of every category, in the order of their names; none where none is known."""
    parts: dict[str, list[Record]] = {}
    for record in records:
        if record["category"] is not None:
            parts.setdefault(record["category"], []).append(record)
    return dict(sorted(parts.items()))


def right_count(record: Record, *, with_cot: bool = False) -> int:
    """How many of a sample's rollouts are right, in their reasoning too if asked."""
    return sum(
        rollout["right"] and (bool(rollout["cot_right"]) or not with_cot)
        for rollout in record["rollouts"]
    )


def pass_rates(records: Sequence[Record], k: int, *, with_cot: bool = False) -> Floats:
    """pass@k of every sample; with reasoning, CoT-pass@k (arXiv 2506.14245)."""
    return np.array(
        [
            pass_at_k(len(record["rollouts"]), right_count(record, with_cot=with_cot), k)
            for record in records
        ]
    )


def groups_of(records: Sequence[Record]) -> list[str] | None:
    """The group of every record; None where each is independent of all others."""
    named = [record.get("group") for record in records]
    if len({name for name in named if name is not None}) + named.count(None) == len(named):
        return None
    # A record without a group is one of its own: no name of a group begins like this.
    return [f"\0{n}" if name is None else name for n, name in enumerate(named)]


def _metrics(records: Sequence[Record], rollouts: int, with_cot: bool) -> dict[str, Estimate]:
    ks = range(1, rollouts + 1)
    columns: dict[str, Floats] = {}
    if rollouts > 1:
        columns[f"avg@{rollouts}"] = pass_rates(records, 1)  # which is the mean
        columns |= {f"pass@{k}": pass_rates(records, k) for k in ks}
    if with_cot:
        columns |= {f"CoT-pass@{k}": pass_rates(records, k, with_cot=True) for k in ks}
    found: dict[str, Estimate] = {}
    groups = groups_of(records)
    if rollouts == 1 and groups is not None:
        columns["accuracy"] = pass_rates(records, 1)
    elif rollouts == 1:
        # A proportion: Wilson's interval does not shrink to nothing where all are right.
        right = sum(right_count(record) for record in records)
        found["accuracy"] = Estimate(right / len(records), *wilson_interval(right, len(records)))
    if columns:
        drawn = estimates(np.stack(list(columns.values()), axis=1), groups)
        found |= dict(zip(columns, drawn, strict=True))
    return found


def replays(records: Iterable[Record]) -> list[Mapping[str, Any]]:
    """The replay reports of all steps that had low-entropy positions."""
    steps = (
        step["replay"]
        for record in records
        for rollout in record["rollouts"]
        for step in rollout["trajectory"]["steps"]
    )
    return [report for report in steps if report and report["kl_before"] is not None]
