"""The parts of a task: samples with their media, questions and right answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from visreplay.agent.protocols import Question
from visreplay.tools.types import Picture


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """The description of a task in the list of `visreplay tasks`.

    Attributes:
        name: The name on the command line.
        scorer: How answers are compared.
        files: The files that the task reads; empty for a synthetic task, which reads none.
    """

    name: str
    scorer: str
    files: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about images, or about one video.

    Attributes:
        sample_id: Unique within its task, and the same on every machine and in every version.
        question: The question in this project's words, with the options.
        answer: The right answer in the form that the task's scorer takes: a letter, a number, a
            text, or LaTeX.
        images: The images that the question is about.
        video: The video that the question is about.
        category: The part of the task that the sample belongs to; tables have a row for each.
        group: The name of a set of samples that depend on each other, such as the cycles of one
            question: intervals resample whole groups. None for an independent sample.
        split: The split of the data set that the sample is in, such as "dev" or "validation", where
            one file holds several and figures are published for one of them.
        parts: The question taken apart, for recipes that have words of their own for it; None where
            `question` is all that there is.
        facts: Whatever else the generator or the data set knows, for scoring and analysis. No
            model is shown it.
    """

    sample_id: str
    question: str
    answer: str
    images: tuple[Picture, ...] = ()
    video: Path | None = None
    category: str | None = None
    group: str | None = None
    split: str | None = None
    parts: Question | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an answer is judged.

    Attributes:
        right: Whether it is right.
        rule: The rule that decided, in words for the user.
        reading: What was read as the answer; None if nothing was.
    """

    right: bool
    rule: str
    reading: str | None = None


class Task(Protocol):
    """A source of samples that can tell whether an answer is right."""

    @property
    def name(self) -> str:
        """The name on the command line, in kebab case."""
        ...

    def sample_ids(self) -> Sequence[str]:
        """List the ids of all samples, in the order of the file."""
        ...

    def load(self, sample_id: str) -> Sample:
        """Load a sample and decode its media; a whole file of decoded media would fill the memory.

        Raises:
            ValueError: There is no such sample, or its media cannot be read.
        """
        ...

    def judge(self, sample: Sample, answer: str | None) -> Verdict:
        """Tell whether an answer to a sample is right, and by which rule; never raises."""
        ...

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Tell whether an answer to a sample is right; never raises, whatever a model wrote."""
        ...


class Split(IntEnum):
    """Disjoint ranges of seeds for synthetic tasks; a member's value is its first seed."""

    TRAIN = 0
    TUNING = 10_000_000
    HELD_OUT = 20_000_000


def ids_of(name: str, seeds: Iterable[int]) -> list[str]:
    """Name the samples that a synthetic task draws from some seeds."""
    return [f"{name}-{seed}" for seed in seeds]
