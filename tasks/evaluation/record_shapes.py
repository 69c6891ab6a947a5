"""The shapes of a run's settings and records, which every reader of a run relies on.

Files of runs are data: they may be damaged, edited, or made by another program. Fields that no
reader uses may be anything.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    PositiveInt,
    ValidationError,
    model_validator,
)

from visreplay.tools.types import preview

Text = InstanceOf[str]
"""Any text: pydantic's own type refuses lone surrogates, which JSON may hold."""

Table = InstanceOf[dict[str, Any]]
"""A JSON object."""


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
    times: list[float]

    @model_validator(mode="after")
    def _as_many_times(self) -> Self:
        if len(self.frames) != len(self.times):
            raise ValueError(f"{len(self.frames)} frames have {len(self.times)} times")
        return self


class _Message(Shape):
    role: Text
    content: list[Annotated[_TextPart | _ImagePart | _VideoPart, Field(discriminator="type")]]


class _Observation(Shape):
    text: Text | None = None
    images: list[Text] = []
    times: list[float] | None = None
    box: list[int] | None = None
    source: Text | None = None


class _ToolUse(Shape):
    name: Text
    arguments: Any
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


class _Step(Shape):
    text: Text
    thought: Text
    tool_calls: list[_ToolUse]
    error: Text | None
    replay: _Replay | None
    seconds: float


class _Trajectory(Shape):
    answer: Text | None
    stop_reason: Text
    seed: int
    steps: list[_Step]
    images: list[Text]
    messages: list[_Message]


class _Rollout(Shape):
    right: bool
    cot_right: bool | None
    trajectory: _Trajectory


class _Record(Shape):
    sample_id: Text
    question: Text | None
    expected: Text | None
    category: Text | None
    error: Text | None
    rollouts: list[_Rollout]
    group: Text | None = None
    split: Text | None = None
    seconds: float = 0.0


class _ReplaySettings(Shape):
    method: Text
    theta: list[float] | None = None
    threshold: Text | None = None
    optimizer: Text | None = None
    learning_rate: float | None = None


class _Sampling(Shape):
    temperature: float | None
    top_p: float | None
    max_new_tokens: int | None
    top_k: int | None = None
    repetition_penalty: float | None = None


class _Limits(Shape):
    max_steps: int | None = None


class _PixelBudget(Shape):
    min: int | None
    max: int | None


class _PixelBudgets(Shape):
    image: _PixelBudget | None = None
    frame: _PixelBudget | None = None


class _Frames(Shape):
    count: int | None
    choice: Text


class _Recipe(Shape):
    limits: _Limits = _Limits()
    pixels: _PixelBudgets = _PixelBudgets()
    frames: _Frames | None = None
    expects: list[Text] | None = None


class _Settings(Shape):
    task: Text
    policy: Text
    replay: _ReplaySettings
    sampling: _Sampling
    rollouts: PositiveInt
    seed: int
    versions: dict[Text, Text]
    data: Text | None = None
    base: Text | None = None
    protocol: Text | None = None
    cot_checker: Text | None = None
    limits: _Limits = _Limits()
    recipe: _Recipe = _Recipe()


def settings_mismatch(settings: dict[str, Any]) -> str | None:
    """Tell what is wrong with the settings of a run; None if nothing is."""
    return mismatch(_Settings, settings)


def record_mismatch(settings: dict[str, Any], record: dict[str, Any]) -> str | None:
    """Tell what is wrong with the record of a sample; None if nothing is.

    Args:
        settings: The settings of its run.
        record: The record.
    """
    wrong = mismatch(_Record, record)
    if wrong is None and record["error"] is None:
        played, rollouts = len(record["rollouts"]), settings.get("rollouts")
        if played != rollouts:
            return f"it has {played} rollouts, and the settings say {preview(rollouts)}"
    return wrong


def mismatch(shape: type[Shape], value: dict[str, Any]) -> str | None:
    """Tell where a value is not of a shape, and what is wrong there; None if it is."""
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        return f"{field}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return None
