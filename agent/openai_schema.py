"""What clients of OpenAI's chat completions send: checked here, down to every field.

Fields that a client may send and that change nothing here are named as such; whatever is unknown,
or asks for something that is not done, is refused rather than ignored.
"""

import json
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from visreplay.agent.policy import Sampling
from visreplay.replay_core import ConfigError, ReplayConfig
from visreplay.tools.types import shown

Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

OWN_RESOURCES = frozenset({"memory_bytes", "query_chunk", "theta"})
"""Settings of replay that are the server's, not a caller's."""

MAX_STEPS = 100
"""Gradient steps of token replay that a caller may ask for."""


_CONFIG = TypeAdapter(ReplayConfig)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(_Strict):
    """Words."""

    type: Literal["text"]
    text: Text


class ImageURL(BaseModel):
    """Where an image is: a data URI, or what the server allows besides."""

    url: str
    detail: str | None = None


class ImagePart(_Strict):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageURL


class VideoURL(BaseModel):
    """Where a clip is."""

    url: str


class VideoPart(_Strict):
    """A clip: not OpenAI's, but as other servers of vision-language models have it."""

    type: Literal["video_url"]
    video_url: VideoURL


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
Content = Text | list[Part]


class SystemTurn(_Strict):
    """Instructions."""

    role: Literal["system", "developer"]
    content: Text | list[TextPart]
    name: str | None = None


class UserTurn(_Strict):
    """What the user says and shows."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class Function(_Strict):
    """A call: the tool's name, and its arguments as the text of a JSON object."""

    name: str
    arguments: Text


class Call(_Strict):
    """A call that the policy made."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class AssistantTurn(BaseModel):
    """What the policy said. Clients send back more than they must, which is left alone."""

    role: Literal["assistant"]
    content: Text | list[TextPart] | None = None
    tool_calls: list[Call] | None = None


class ToolTurn(_Strict):
    """What a tool gave, images and clips too."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


Turn = Annotated[SystemTurn | UserTurn | AssistantTurn | ToolTurn, Field(discriminator="role")]


class ToolFunction(_Strict):
    """A tool: its name, what it does, and its arguments as a JSON schema."""

    name: Name
    description: Text = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool | None = None


class Tool(_Strict):
    """A tool that the policy may call."""

    type: Literal["function"]
    function: ToolFunction


class ChosenFunction(_Strict):
    """Which function."""

    name: str


class Chosen(_Strict):
    """The tool that has to be called."""

    type: Literal["function"]
    function: ChosenFunction


class StreamOptions(_Strict):
    """How to stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ResponseFormat(_Strict):
    """Text is all there is: a policy is not forced into a schema."""

    type: Literal["text"]


class ChatRequest(_Strict):
    """The body of a request for a chat completion.

    Attributes:
        model: One of `/v1/models`.
        messages: The whole conversation.
        replay: Fields of `ReplayConfig` that are to be other than the server's, for models that
            are replayed.
        n: How many answers; they share what is read and replayed.
        max_completion_tokens: Of each answer. `max_tokens` is its older name.
        temperature: 0 is greedy.
        top_p: Nucleus sampling's mass.
        seed: Of the first answer; the others follow by one.
        stop: Texts that end an answer, and are left out.
        logprobs: Whether to tell how probable each token was.
        top_logprobs: And so many of the most probable ones.
        parallel_tool_calls: Whether an answer may have several calls.
    """

    model: str
    messages: Annotated[list[Turn], Field(min_length=1, max_length=4096)]
    replay: dict[str, Any] | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Chosen | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    # These change nothing.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None

    @field_validator("frequency_penalty", "presence_penalty", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """Clients write 0 as 0.0."""
        return 0 if value == 0 and not isinstance(value, bool) else value

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def new_tokens(self) -> int | None:
        """How many tokens an answer may have, if it was said."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def seeds(self) -> list[int | None]:
        """A seed for each answer."""
        return [None if self.seed is None else (self.seed + i) % 2**63 for i in range(self.n)]

    @property
    def kept_logprobs(self) -> int | None:
        """How many of the most probable tokens to keep at each place, if any at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def signatures(self) -> list[dict[str, Any]]:
        """The tools, as the policy is shown them."""
        tools = self.tools or []
        return [tool.model_dump(exclude={"function": {"strict"}}) for tool in tools]

    def sampling(self, default: Sampling) -> Sampling:
        """How to decode.

        Args:
            default: Where nothing was said.
        """
        return Sampling(
            temperature=default.temperature if self.temperature is None else self.temperature,
            top_p=self.top_p or default.top_p,
            max_new_tokens=self.new_tokens or default.max_new_tokens,
        )


def replay_config(default: ReplayConfig, said: dict[str, Any]) -> ReplayConfig:
    """A caller's way of replaying.

    Args:
        default: The server's.
        said: Fields that are to be other ones.

    Raises:
        ConfigError: There is no such setting for callers, or it is out of range.
    """
    names = sorted({field.name for field in fields(default)} - OWN_RESOURCES)
    for name in said:
        if name not in names:
            raise ConfigError(f"replay has no setting {shown(name)}; there are {', '.join(names)}")
    try:
        config = _CONFIG.validate_python({**asdict(default), **said})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("replay", *first["loc"])))
        raise ConfigError(f"{where}: {first['msg']}") from error
    if config.steps > MAX_STEPS:
        raise ConfigError(f"replay.steps is {config.steps}, but may be {MAX_STEPS} at most")
    return config


def as_messages(turns: list[Turn]) -> list[BaseMessage]:
    """The conversation in LangChain's messages."""
    return [_as_message(turn) for turn in turns]


def _as_message(turn: Turn) -> BaseMessage:
    content = _content(turn.content)
    match turn:
        case SystemTurn():
            return SystemMessage(content)
        case UserTurn():
            return HumanMessage(content)
        case ToolTurn():
            return ToolMessage(content, tool_call_id=turn.tool_call_id)
        case AssistantTurn():
            calls = [_as_call(call) for call in turn.tool_calls or ()]
            return AIMessage(
                content,
                tool_calls=[call for call in calls if call["type"] == "tool_call"],
                invalid_tool_calls=[call for call in calls if call["type"] == "invalid_tool_call"],
            )


def _content(content: str | list[Any] | None) -> Any:
    if content is None or isinstance(content, str):
        return content or ""
    return [part.model_dump(exclude_none=True) for part in content]


def _as_call(call: Call) -> ToolCall | InvalidToolCall:
    try:
        arguments = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        return ToolCall(name=call.function.name, args=arguments, id=call.id, type="tool_call")
    return InvalidToolCall(
        name=call.function.name,
        args=call.function.arguments,
        id=call.id,
        error="the arguments are no JSON object",
        type="invalid_tool_call",
    )
