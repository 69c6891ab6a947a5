"""The shape of an episode's state, and of what else is read back from where others may write.

A checkpointer's states and the records of runs are data: they may be damaged, edited, or made by
another program. Fields that no reader uses may be anything.
"""

from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    InstanceOf,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from visreplay.agent.episode.trajectory import StopReason
from visreplay.agent.state import EpisodeState
from visreplay.tools.types import preview

Text = InstanceOf[str]
"""Any text: pydantic's own type refuses lone surrogates, which JSON may hold."""


class Shape(BaseModel):
    """A JSON object with the fields of the class, of just their types, and any others."""

    model_config = ConfigDict(strict=True)


class _TextPart(Shape):
    type: Literal["text"]
    text: Text


class _ImagePart(Shape):
    type: Literal["image"]
    image: Text


class _VideoPart(Shape):
    type: Literal["video"]
    frames: list[Text]
    times: list[FiniteFloat]
    step_seconds: FiniteFloat = 0.0

    @model_validator(mode="after")
    def _as_many_times(self) -> Self:
        if len(self.frames) != len(self.times):
            raise ValueError(f"{len(self.frames)} frames have {len(self.times)} times")
        if not self.frames:
            raise ValueError("a video needs a frame")
        return self


class MessageShape(Shape):
    """A message of a conversation (`messages.Message`)."""

    role: Literal["system", "user", "assistant", "tool"]
    content: list[Annotated[_TextPart | _ImagePart | _VideoPart, Field(discriminator="type")]]


class _TurnShape(MessageShape):
    token_ids: list[Annotated[int, Field(ge=0, lt=2**63)]] = []


class _Observation(Shape):
    text: Text
    images: list[Text]
    times: list[FiniteFloat] | None = None
    box: list[int] | None = None
    source: Text | None = None
    root: Text | None = None
    region: list[int] | None = None


class _ToolUse(Shape):
    name: Text
    arguments: InstanceOf[dict[str, Any]]
    observation: _Observation | None
    error: Text | None
    seconds: float = 0.0


class _Block(Shape):
    map: Text | None = None
    grid: list[int]
    max_entropy: float


class _Replay(Shape):
    method: Text
    new_visual_tokens: int
    kl_before: float | None
    kl_after: float | None
    optimisation_steps: int
    seconds: float
    blocks: list[_Block] | None = None


class StepShape(Shape):
    """A step of an episode (`state.Step`)."""

    index: NonNegativeInt
    text: Text
    thought: Text
    tool_calls: list[_ToolUse]
    error: Text | None
    replay: _Replay | None
    seconds: float


def _numbered(steps: list[StepShape]) -> list[StepShape]:
    if (numbers := [step.index for step in steps]) != list(range(len(steps))):
        raise ValueError(f"the steps have the numbers {preview(numbers)}, not those from 0 on")
    return steps


class _EpisodeShape(Shape):
    question: Text
    images: list[Text]
    video: Text | None
    seed: NonNegativeInt
    steps: Annotated[list[StepShape], AfterValidator(_numbered)]
    answer: Text | None
    stop_reason: Annotated[StopReason, Field(strict=False)] | None


class _WithTokens(_EpisodeShape):
    messages: list[_TurnShape]


class _WithoutTokens(_EpisodeShape):
    messages: list[MessageShape]


def checked_state(values: object, *, tokens: bool = True) -> EpisodeState:
    """Check the state that an episode is to go on from.

    Args:
        values: A state that `Loop.start` built, or that a checkpointer gave back.
        tokens: Whether the tokens of its turns will be read. If not, they may be anything.

    Raises:
        ValueError: It is not the state of an episode; the message names the field.
    """
    if wrong := mismatch(_WithTokens if tokens else _WithoutTokens, values):
        raise ValueError(
            f"this is not the state of an episode ({wrong}): it may be damaged, edited or another "
            "program's; start the episode anew"
        )
    return cast(EpisodeState, values)


def mismatch(shape: type[Shape], value: object) -> str | None:
    """Tell where a value is not of a shape, and what is wrong there; None if it is."""
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        return f"{field}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return None
