"""The base of the synthetic tasks: samples are drawn from seeds, and their ids end in the seed."""

from abc import ABC, abstractmethod

from visreplay.tasks.scoring.scorers import Scorer
from visreplay.tasks.types import Sample, Split, Verdict, ids_of

SAMPLES = 1000
"""The number of held-out seeds that are the samples of a synthetic task."""


class SyntheticTask(ABC):
    """A task that draws its samples from seeds."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """The name on the command line, in kebab case."""

    @abstractmethod
    def sample(self, seed: int) -> Sample:
        """Draw the sample of a seed; the same seed always gives the same sample."""

    def sample_ids(self) -> list[str]:
        """Name the samples of the held-out seeds."""
        return ids_of(self.name, range(Split.HELD_OUT, Split.HELD_OUT + SAMPLES))

    def load(self, sample_id: str) -> Sample:
        """Draw the sample of an id; any seed is allowed, of any split.

        Raises:
            ValueError: The id is not one of this task.
        """
        prefix, _, seed = sample_id.rpartition("-")
        if prefix != self.name or not (seed.isascii() and seed.isdigit()):
            raise ValueError(
                f"{sample_id!r} is no sample of {self.name}; its ids are {self.name}-SEED"
            )
        return self.sample(int(seed))

    def judge(self, sample: Sample, answer: str | None) -> Verdict:
        """Tell whether the answer is the expected text, and by which rule."""
        return Scorer("text").judge(sample.answer, answer)

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Tell whether the answer is the expected text."""
        return self.judge(sample, answer).right
