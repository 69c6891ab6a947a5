"""What a task is made of: a sample with its media, its question and its right answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from PIL import Image


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one image or one video.

    Attributes:
        sample_id: Unique within its task, stable across machines and versions.
        question: The question as a person would ask it.
        answer: The right answer.
        images: The images that the question is about, RGB.
        video: The clip that the question is about.
        category: What tables break down by.
        facts: What the generator or the data set knows besides (for scoring and analysis;
            never shown to a model).
    """

    sample_id: str
    question: str
    answer: str
    images: tuple[Image.Image, ...] = ()
    video: Path | None = None
    category: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


class Task(Protocol):
    """A source of samples."""

    @property
    def name(self) -> str:
        """The name on the command line, in kebab case."""
        ...

    def sample(self, seed: int) -> Sample:
        """The sample of a seed; the same seed always gives the same sample."""
        ...


class Split(IntEnum):
    """Disjoint ranges of seeds for generated tasks: the value is the first seed."""

    TRAIN = 0
    TUNING = 10_000_000
    HELD_OUT = 20_000_000
