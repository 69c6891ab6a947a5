"""Tasks as an evaluation needs them: samples by their ids, media decoded when they are played."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from visreplay.tasks.registry import task_named
from visreplay.tasks.types import Sample, Split
from visreplay.tasks.types import Task as Generator

HELD_OUT = 1000
"""How many samples of a generated task are listed."""


class Task(Protocol):
    """What an evaluation needs."""

    @property
    def name(self) -> str:
        """The name on the command line, in kebab case."""
        ...

    def sample_ids(self) -> Sequence[str]:
        """All samples, in the file's order."""
        ...

    def load(self, sample_id: str) -> Sample:
        """A sample, media decoded.

        Raises:
            ValueError: there is none, or its media cannot be read.
        """
        ...

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether an answer is right."""
        ...


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated task, whose samples are those of held-out seeds."""

    generator: Generator

    @property
    def name(self) -> str:
        """The generator's."""
        return self.generator.name

    def sample_ids(self) -> list[str]:
        """Of the first held-out seeds."""
        return ids_of(self, range(Split.HELD_OUT, Split.HELD_OUT + HELD_OUT))

    def load(self, sample_id: str) -> Sample:
        """Draw a sample, of any split."""
        name, _, seed = sample_id.rpartition("-")
        if name != self.name or not seed.isdecimal():
            raise ValueError(f"{sample_id!r} is no sample of {self.name}, which end in a seed")
        return self.generator.sample(int(seed))

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether it is the expected text, white space at the ends and letter case aside."""
        return answer is not None and answer.strip().casefold() == sample.answer.casefold()


def ids_of(task: Task, seeds: Sequence[int]) -> list[str]:
    """The sample ids of seeds of a generated task."""
    return [f"{task.name}-{seed}" for seed in seeds]


def open_task(name: str, data: Path | None = None) -> Task:
    """The task of a name.

    Raises:
        ValueError: there is none, or it has no use for the data.
    """
    task = Generated(task_named(name))
    if data is not None:
        raise ValueError(f"{name} draws its samples itself: leave out --data")
    return task


def select(
    ids: Sequence[str],
    *,
    limit: int | None = None,
    sample_ids: Sequence[str] = (),
    shuffle: int | None = None,
) -> list[str]:
    """The samples to play, in order: those that are named, shuffled, the first of them.

    Raises:
        ValueError: a named sample does not exist.
    """
    known, named = set(ids), set(sample_ids)
    if unknown := [each for each in sample_ids if each not in known]:
        raise ValueError(f"there is no sample {unknown[0]!r}; the first one is {ids[0]!r}")
    chosen = [each for each in ids if each in named] if named else list(ids)
    if shuffle is not None:
        order = np.random.default_rng(shuffle).permutation(len(chosen))
        chosen = [chosen[i] for i in order]
    return chosen[:limit]
