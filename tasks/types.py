"""What a task is made of: samples with their media, questions and right answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from visreplay.tools.types import Picture


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about images, or about one video.

    Attributes:
        sample_id: Unique within its task, stable across machines and versions.
        question: As the model reads it, options included.
        answer: The right answer, as the task's scorer wants it: a letter, a number, a text, LaTeX.
        images: The images that the question is about.
        video: The clip that the question is about.
        category: What tables break scores down by.
        group: Samples of one group are not independent of each other (the cycles of one
            question): intervals resample groups. None: a sample for itself.
        facts: What the generator or the data set knows besides (for scoring and analysis;
            never shown to a model).
    """

    sample_id: str
    question: str
    answer: str
    images: tuple[Picture, ...] = ()
    video: Path | None = None
    category: str | None = None
    group: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


class Task(Protocol):
    """A source of samples that knows a right answer when it sees one."""

    @property
    def name(self) -> str:
        """The name on the command line, in kebab case."""
        ...

    def sample_ids(self) -> Sequence[str]:
        """Those of all samples, in the file's order."""
        ...

    def load(self, sample_id: str) -> Sample:
        """A sample with its media, which are decoded only now: not all of a file fits in memory.

        Raises:
            ValueError: there is no such sample, or its media cannot be read.
        """
        ...

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether an answer to a sample is right; never raises, whatever a model wrote."""
        ...


class Split(IntEnum):
    """Disjoint ranges of seeds for generated tasks: the value is the first seed."""

    TRAIN = 0
    TUNING = 10_000_000
    HELD_OUT = 20_000_000


def ids_of(name: str, seeds: Iterable[int]) -> list[str]:
    """The sample ids of seeds of a generated task."""
    return [f"{name}-{seed}" for seed in seeds]
