"""A task and an agent whose episodes are known beforehand, for tests of how runs are kept."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from visreplay.agent.episode.trajectory import StopReason, Trajectory
from visreplay.agent.messages import Message, image, text, user
from visreplay.tasks.types import Sample
from visreplay.tools import ImageStore

COUNT = 2
"""Number of samples."""


class ShadeTask:
    """Samples that ask for the shade of a plain picture."""

    name = "shades"

    def sample_ids(self) -> list[str]:
        return [f"shade-{number}" for number in range(COUNT)]

    def load(self, sample_id: str) -> Sample:
        number = int(sample_id.removeprefix("shade-"))
        picture = Image.new("RGB", (24, 16), (number, 2, 3))
        return Sample(sample_id, "Which shade?", str(number), (picture,), category="shades")

    def is_right(self, sample: Sample, answer: str | None) -> bool:
        return answer == sample.answer


class ShadeAgent:
    """Plays what `ShadeTask` asks: it looks at the picture and at a crop of it, and answers.

    Every second rollout is wrong. All pictures are in the store, one of which all samples share.
    """

    def __init__(self, images: Path) -> None:
        self.store = ImageStore(images)

    def rollouts(
        self,
        question: str,
        seeds: Sequence[int],
        *,
        images: Sequence[Image.Image],
        video: Path | None,
    ) -> list[Trajectory]:
        (picture,) = images
        shown, crop, shared = (
            self.store.put(each)
            for each in (picture, picture.crop((0, 0, 8, 8)), Image.new("L", (5, 5), 7))
        )
        answer = str(picture.getpixel((0, 0))[0])  # type: ignore[index]
        messages: tuple[Message, ...] = (
            user(image(shown), image(shared), text(question)),
            {"role": "assistant", "content": [text("Let me look.")]},
            user(image(crop)),
            {"role": "assistant", "content": [text(f"It is {answer}.")]},
        )
        return [
            Trajectory(
                question,
                answer if number % 2 == 0 else "another",
                StopReason.ANSWERED,
                "policy",
                None,
                "none",
                seed,
                steps=(),
                images=(shown,),
                messages=messages,
            )
            for number, seed in enumerate(seeds)
        ]

    def close(self) -> None:
        pass
