"""The state of an episode: plain JSON values that any LangGraph checkpointer can store.

Images and frames are references into an `ImageStore` (content hashes), never pixels, so a
checkpoint grows by a few hundred bytes a step however large the pictures are.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NotRequired, TypedDict

from visreplay.agent.messages import Message, append_messages
from visreplay.agent.messages import ToolCall as ToolCall


class Observation(TypedDict):
    """What a tool gave back: a line of text, and references to the images it made.

    Attributes:
        text: In words.
        images: References of what the policy is shown.
        times: Of frames, in seconds.
        box: Of a crop: left, top, right and bottom in pixels of the image that was cropped.
        source: Reference of that image, which may be a crop itself.
        root: Of a crop of a crop whose pixels were taken from a picture that had them all: its
            reference.
        region: Of the same crop: where in that picture it lies, in its pixels.
    """

    text: str
    images: list[str]
    times: NotRequired[list[float]]
    box: NotRequired[list[int]]
    source: NotRequired[str]
    root: NotRequired[str]
    region: NotRequired[list[int]]


class ToolUse(TypedDict):
    """A call, and what came of it.

    Attributes:
        name: Of the tool.
        arguments: As the model wrote them.
        observation: What the tool gave back.
        error: What the model was told was wrong with the call. Neither is there before it is run.
        seconds: Wall time of running it; not there before, nor in records of earlier versions.
    """

    name: str
    arguments: dict[str, Any]
    observation: Observation | None
    error: str | None
    seconds: NotRequired[float]


class Step(TypedDict):
    """One policy turn and what came of it.

    Attributes:
        index: 0 for the first step of the episode.
        text: All that the policy wrote.
        thought: The reasoning part of it.
        tool_calls: The calls that were read from it, in the order written.
        error: What the model was told was wrong with the turn itself (a call that cannot be read).
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
    """Reducer: a step with a known index replaces the earlier one, a new one is appended."""
    merged = {step["index"]: step for step in steps}
    merged.update({step["index"]: step for step in update})
    return [merged[index] for index in sorted(merged)]


class EpisodeState(TypedDict):
    """What flows through the graph.

    Attributes:
        question: What was asked.
        images: References of the images that the question is about, in order.
        video: Path of the clip that the question is about.
        seed: Of sampling; a turn's own seed follows from it and the turn's number.
        messages: The conversation as the policy sees it.
        steps: One record a policy turn.
        answer: The policy's answer, once it has given one.
        stop_reason: Why the episode ended (a `StopReason`), None while it runs.
    """

    question: str
    images: list[str]
    video: str | None
    seed: int
    messages: Annotated[list[Message], append_messages]
    steps: Annotated[list[Step], merge_steps]
    answer: str | None
    stop_reason: str | None


def observations(state: EpisodeState) -> list[Observation]:
    """What all calls of an episode gave, in their order."""
    return [
        use["observation"]
        for step in state["steps"]
        for use in step["tool_calls"]
        if use["observation"] is not None
    ]
