"""The state of an episode: plain JSON values that any LangGraph checkpointer can store.

Images and frames are references into an `ImageStore` (content hashes), never pixels. A checkpoint
grows by a few hundred bytes a step, however large the pictures are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, Self, TypedDict

from visreplay.agent.messages import Message, VideoPart
from visreplay.agent.messages import ToolCall as ToolCall


class Observation(TypedDict):
    """The result of a tool: a line of text, and references to the images that it made.

    Attributes:
        text: The result in words.
        images: References of the images that the policy sees.
        times: Times of the frames, in seconds.
        box: For a crop: left, top, right and bottom, in pixels of the image that was cropped.
        source: Reference of that image, which may be a crop itself.
        root: For a crop of a crop, whose pixels were taken from a larger picture: the reference
            of that picture.
        region: For the same crop: its place in that picture, in pixels.
    """

    text: str
    images: list[str]
    times: NotRequired[list[float]]
    box: NotRequired[list[int]]
    source: NotRequired[str]
    root: NotRequired[str]
    region: NotRequired[list[int]]


class ToolUse(TypedDict):
    """A call and its result. Before the call is run, there is neither observation nor error.

    Attributes:
        name: Name of the tool.
        arguments: The arguments as the model wrote them.
        observation: The result.
        error: What was wrong with the call, in the words that the model reads.
        seconds: Wall time of the call; absent before it is run, and in records of early versions.
    """

    name: str
    arguments: dict[str, Any]
    observation: Observation | None
    error: str | None
    seconds: NotRequired[float]


class Step(TypedDict):
    """One policy turn and its consequences.

    Attributes:
        index: 0 for the first step of the episode.
        text: The whole turn.
        thought: Its reasoning part.
        tool_calls: Its calls, in the order written.
        error: What was wrong with the turn itself (a call that cannot be parsed), in the words that
            the model reads.
        replay: What replay did (`telemetry.replay_record`), or None where none ran.
        seconds: Wall time of the policy's turn; the calls have their own.
    """

    index: int
    text: str
    thought: str
    tool_calls: list[ToolUse]
    error: str | None
    replay: dict[str, Any] | None
    seconds: float


def merge_steps(steps: Sequence[Step], update: Sequence[Step]) -> list[Step]:
    """Merge two lists of steps: a known index replaces the earlier step, a new one is appended."""
    merged = {step["index"]: step for step in steps}
    merged.update({step["index"]: step for step in update})
    return [merged[index] for index in sorted(merged)]


class EpisodeState(TypedDict):
    """The state of the graph. A new one replaces the state of a thread: it is another episode.

    Attributes:
        question: The user's question.
        images: References of the images that the question is about, in order.
        video: Path of the video that the question is about.
        seed: Seed of the episode; each turn's own seed follows from it and the turn's number.
        messages: The conversation as the policy reads it.
        steps: One record for each policy turn.
        answer: The policy's answer, once it has given one.
        stop_reason: Why the episode ended (a `StopReason`), None while it runs.
    """

    question: str
    images: list[str]
    video: str | None
    seed: int
    messages: list[Message]
    steps: list[Step]
    answer: str | None
    stop_reason: str | None


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a tool call may look at.

    Attributes:
        images: References of the images that the question is about, in order.
        video: Path of the video that the question is about.
        overview: The frames of that video that the conversation opened with.
        observations: Results of the earlier turns' calls, in order.
    """

    images: tuple[str, ...] = ()
    video: str | None = None
    overview: VideoPart | None = None
    observations: tuple[Observation, ...] = ()

    @classmethod
    def of(cls, state: EpisodeState) -> Self:
        """Build the scene of an episode."""
        parts = [part for message in state["messages"] for part in message["content"]]
        return cls(
            images=tuple(state["images"]),
            video=state["video"],
            overview=next((part for part in parts if part["type"] == "video"), None),
            observations=tuple(observations(state)),
        )

    @property
    def all_images(self) -> tuple[str, ...]:
        """References of the question's images, then of all observations' images."""
        return (*self.images, *(image for each in self.observations for image in each["images"]))


def shown_images(
    images: Iterable[str], messages: Iterable[Message], steps: Iterable[Step]
) -> list[str]:
    """List every image that the policy saw, in order, then the replay maps; without repeats.

    Args:
        images: References of the images that the question is about.
        messages: The conversation.
        steps: The steps of the episode.
    """
    references = list(images)
    for message in messages:
        for part in message["content"]:
            if part["type"] == "image":
                references.append(part["image"])
            elif part["type"] == "video":
                references.extend(part["frames"])
    for step in steps:
        references += [block["map"] for block in (step["replay"] or {}).get("blocks", ())]
    return list(dict.fromkeys(references))


def observations(state: EpisodeState) -> list[Observation]:
    """The results of all calls of an episode, in order."""
    return [
        use["observation"]
        for step in state["steps"]
        for use in step["tool_calls"]
        if use["observation"] is not None
    ]
