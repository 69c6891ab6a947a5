"""What the generated tasks share: samples that are drawn from seeds, which their ids end in."""

from abc import ABC, abstractmethod

from visreplay.tasks.scoring.scorers import same_text
from visreplay.tasks.types import Sample, Split, ids_of

SAMPLES = 1000
"""So many held-out seeds are the samples of a generated task."""


class GeneratedTask(ABC):
    """A task that draws its samples from seeds."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """The name on the command line, in kebab case."""

    @abstractmethod
    def sample(self, seed: int) -> Sample:
        """The sample of a seed; the same seed always gives the same sample."""

    def sample_ids(self) -> list[str]:
        """Those of held-out seeds."""
        return ids_of(self.name, range(Split.HELD_OUT, Split.HELD_OUT + SAMPLES))

    def load(self, sample_id: str) -> Sample:
        """Draw the sample of an id.

        Raises:
            ValueError: it is not an id of this task.
        """
        prefix, _, seed = sample_id.rpartition("-")
        if prefix != self.name or not (seed.isascii() and seed.isdigit()):
            raise ValueError(
                f"{sample_id!r} is no sample of {self.name}; its ids are {self.name}-SEED"
            )
        return self.sample(int(seed))

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        """Whether the answer is the expected text."""
        return same_text(sample.answer, answer)
