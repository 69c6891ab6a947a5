"""The record of an episode: the question, every step, why it ended, and how to run it again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from visreplay.agent.messages import Message
from visreplay.agent.state import EpisodeState, Step, shown_images
from visreplay.tools import ImageStore
from visreplay.tools.disk import write_file


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    """The policy gave an answer."""
    MAX_STEPS = "max_steps"
    """The policy used all its turns without an answer."""
    MAX_IMAGES = "max_images"
    """Another observation would have shown more images than allowed."""
    REPEATED_CALL = "repeated_call"
    """The policy made the same call again and again."""
    MAX_TOKENS = "max_tokens"
    """A turn reached the token limit before it was finished."""
    NO_ANSWER = "no_answer"
    """A turn held neither a call nor an answer."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished episode, plain JSON values throughout.

    Attributes:
        question: The user's question.
        answer: The policy's answer, None if it gave none.
        stop_reason: Why the episode ended.
        policy: Name or path of the policy.
        base: Name or path of the base model, None without replay.
        protocol: Name of the tool protocol.
        seed: Seed of the episode.
        steps: One record for each policy turn.
        images: References of the images that the question is about.
        video: Path of the video that the question is about.
        messages: The conversation as the policy read it.
        settings: Everything else that it takes to run the episode again: `replay`, `sampling`,
            `limits`, `versions`, and the `driver` of the loop ("graph" or "rollouts").
    """

    question: str
    answer: str | None
    stop_reason: StopReason
    policy: str
    base: str | None
    protocol: str
    seed: int
    steps: tuple[Step, ...]
    images: tuple[str, ...] = ()
    video: str | None = None
    messages: tuple[Message, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, state: EpisodeState, **run: Any) -> Self:
        """Make the record of a finished state.

        Args:
            state: A state whose `stop_reason` is set.
            **run: `policy`, `base`, `protocol`, `settings`.

        Raises:
            ValueError: The episode has not ended.
        """
        if state["stop_reason"] is None:
            raise ValueError("the episode has not ended: its stop_reason is None")
        return cls(
            question=state["question"],
            answer=state["answer"],
            stop_reason=StopReason(state["stop_reason"]),
            seed=state["seed"],
            steps=tuple(state["steps"]),
            images=tuple(state["images"]),
            video=state["video"],
            messages=tuple(state["messages"]),
            **run,
        )

    def to_json(self) -> dict[str, Any]:
        """Convert to a dictionary that `json.dumps` takes as it is."""
        return asdict(self)

    def references(self) -> list[str]:
        """List every image that the policy saw, in order, then the replay maps; without repeats."""
        return shown_images(self.images, self.messages, self.steps)

    def save(self, folder: Path, store: ImageStore) -> Path:
        """Write `trajectory.json` and every image as `images/<reference>.png`.

        Returns:
            The path of the JSON file.
        """
        copies = ImageStore(folder / "images")
        for reference in self.references():
            copies.put(store.get(reference))
        path = folder / "trajectory.json"
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        write_file(path, text.encode("utf-8", "backslashreplace"))
        return path
