"""Evaluate an agent on a task: play samples, score the answers, and make a record of each.

A sample that fails, in loading, playing or scoring, gives a record with its error and without
rollouts. It is counted apart, and never as a wrong answer. Only a disk that does not take the run's
images ends the run: every other sample would fail as well.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from visreplay.tasks.evaluation.runs import SampleRecord, ScoredRollout, record_of, rollout_of
from visreplay.tasks.types import Sample, Task
from visreplay.tools.disk import DiskError

if TYPE_CHECKING:
    from visreplay.agent import Agent, Trajectory

Checker = Callable[[Sample, "Trajectory"], bool]
"""A function that tells whether the reasoning behind a right answer is right too."""

DRIVER = "rollouts"
"""The driver of the loop that plays samples: `Agent.rollouts`."""


def evaluate(
    agent: "Agent",
    task: Task,
    ids: Iterable[str],
    *,
    rollouts: int = 1,
    seed: int = 0,
    cot_checker: Checker | None = None,
    concurrency: int = 1,
) -> Iterator[SampleRecord]:
    """Play and score samples, one after the other or several at once.

    The result is an iterator: samples are played as their records are taken. Every record is the
    same in any order, and however many are played at once.

    Args:
        agent: The agent that plays the episodes.
        task: The task that loads and scores the samples.
        ids: The ids of the samples to play.
        rollouts: Episodes per sample. They share prefill and replay up to their first difference.
        seed: The seed of the run; the seed of each rollout follows from it.
        cot_checker: Called with every rollout whose answer is right, in the thread of its sample.
        concurrency: Number of samples that are played at once, in threads; records come as they
            end.

    Raises:
        DiskError: The images of a sample cannot be written.
    """

    def play(player: "Agent", sample_id: str) -> SampleRecord:
        seeds = [rollout_seed(seed, sample_id, number) for number in range(rollouts)]
        return evaluate_sample(player, task, sample_id, seeds, cot_checker)

    if concurrency == 1:
        for sample_id in ids:
            yield play(agent, sample_id)
        return
    left = iter(ids)
    players = [agent.with_store(agent.store) for _ in range(concurrency)]
    running: dict[Future[SampleRecord], Agent] = {}
    threads = ThreadPoolExecutor(concurrency, "visreplay-samples")
    try:
        while True:
            for sample_id in islice(left, len(players)):
                player = players.pop()
                running[threads.submit(play, player, sample_id)] = player
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                players.append(running.pop(done))
                yield done.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def rollout_seed(seed: int, sample_id: str, number: int) -> int:
    """Derive the seed of a rollout, which depends on no other sample and on no order.

    Args:
        seed: The seed of the run.
        sample_id: The id of the sample.
        number: The number of the rollout among those of the sample, from 0.
    """
    digest = hashlib.sha256(f"{seed}\0{number}\0{sample_id}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:4], "big")


def evaluate_sample(
    agent: "Agent",
    task: Task,
    sample_id: str,
    seeds: Sequence[int],
    cot_checker: Checker | None = None,
) -> SampleRecord:
    """Play and score one sample, with a rollout for every seed.

    Raises:
        DiskError: Its images cannot be written.
    """
    record = empty_record(sample_id)
    try:
        sample = task.load(sample_id)
        record = record_of(sample, [])
        start = perf_counter()
        trajectories = agent.rollouts(
            sample.parts or sample.question, seeds, images=sample.images, video=sample.video
        )
        record["rollouts"] = [_score(task, sample, each, cot_checker) for each in trajectories]
        record["seconds"] = perf_counter() - start
    except DiskError:
        raise
    except Exception as error:  # after any error, out of memory for one, the other samples go on
        record["error"] = describe_error(error)
    finally:
        # No other sample shares its conversations; after an error they may fill the memory.
        agent.close()
    return record


def empty_record(sample_id: str, error: str | None = None) -> SampleRecord:
    """Make the record of a sample that was not loaded."""
    return {
        "sample_id": sample_id,
        "question": None,
        "expected": None,
        "category": None,
        "error": error,
        "rollouts": [],
    }


def describe_error(error: BaseException) -> str:
    """Describe an error by its type and its message, which may fail to be made."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"[:2000]
    except Exception:
        return f"{name}: its message cannot be read"


def _score(
    task: Task, sample: Sample, trajectory: "Trajectory", cot_checker: Checker | None
) -> ScoredRollout:
    right = bool(task.is_right(sample, trajectory.answer))
    cot_right = None
    if right and cot_checker is not None:
        cot_right = _check_reasoning(cot_checker, sample, trajectory)
    return rollout_of(trajectory, right=right, cot_right=cot_right)


def _check_reasoning(checker: Checker, sample: Sample, trajectory: "Trajectory") -> bool:
    """Ask the user's checker, which is code that may do anything.

    Raises:
        RuntimeError: It exits, or cannot write to a disk of its own.
        TypeError: It does not return True or False.
    """
    try:
        verdict = checker(sample, trajectory)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        if isinstance(error, DiskError):  # of an image store of its own
            raise RuntimeError(f"the checker of the reasoning failed: {error}") from error
        raise
    except BaseException as error:  # SystemExit would end the run as if it were complete
        raise RuntimeError(
            f"the checker of the reasoning ended with {describe_error(error)}"
        ) from error
    # A judge may count: 0 and 1 are verdicts too.
    if not isinstance(verdict, (int, np.bool_)) or verdict not in (0, 1):
        raise TypeError(
            f"the checker of the reasoning returned a {type(verdict).__name__} that is neither "
            "True nor False"
        )
    return bool(verdict)
