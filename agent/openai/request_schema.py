"""The bodies of requests for chat completions, checked down to every field.

An unknown field, or one that asks for something that this server does not do, is refused rather
than ignored (`request_objects`).
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, StringConstraints, model_validator

from visreplay.agent.openai.request_objects import (
    Lenient,
    Marked,
    NeutralSettings,
    Strict,
    Unique,
)
from visreplay.agent.policy.sampling import Sampling

Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]


class TextPart(Marked):
    """A piece of text."""

    type: Literal["text"]
    text: Text


class RefusalPart(Marked):
    """A piece of text in which the policy declines."""

    type: Literal["refusal"]
    refusal: Text


def _detail(value: Any) -> Any:
    """Take "" as not given, and any case."""
    return value.lower() or "auto" if isinstance(value, str) else value


class MediaURL(Strict):
    """Fields beside a URL that change nothing: the content says what it is."""

    format: str | None = None
    mime_type: str | None = None
    name: str | None = None
    filename: str | None = None


class ImageURL(MediaURL):
    """An image: its data URI, or another that the server allows, and limits of its size.

    Attributes:
        url: The URL.
        detail: "low" shrinks the image (`media_parts.LOW_DETAIL`); the others leave it.
        min_pixels: The image is enlarged to so many pixels; this field and the next are Qwen's.
        max_pixels: The image is shrunk to so many pixels.
    """

    url: str
    detail: Annotated[Literal["auto", "low", "high", "original"], BeforeValidator(_detail)] = "auto"
    min_pixels: Count | None = None
    max_pixels: Count | None = None

    @property
    def limits(self) -> dict[str, Any]:
        """The limits of its size."""
        return self.model_dump(include={"detail", "min_pixels", "max_pixels"})


class ImagePart(Unique):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageURL


class VideoURL(MediaURL):
    """The place of a video."""

    url: str


class VideoPart(Unique):
    """A video: not in OpenAI's API, but in that of other servers of vision-language models."""

    type: Literal["video_url"]
    video_url: VideoURL


ContentPart = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
Parts = Annotated[list[ContentPart], Field(max_length=1024, fail_fast=True)]
Texts = Annotated[list[TextPart], Field(max_length=1024, fail_fast=True)]
TurnPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
Content = Text | Parts


class SystemMessage(Marked):
    """A message of instructions."""

    role: Literal["system", "developer"]
    content: Text | Texts
    name: str | None = None


class UserMessage(Marked):
    """A message of the user, with text, images and videos."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class Function(Lenient):
    """The name of a called function, and its arguments as the text of a JSON object.

    Without arguments, the text may be empty.
    """

    name: str
    arguments: Text = ""


class Call(Lenient):
    """A tool call of the policy. Clients may add fields of their own (`parsed_arguments`)."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class AssistantMessage(Lenient):
    """A message of the policy. Clients may send more fields of it back, which are ignored.

    Attributes:
        role: The author.
        content: The text; if there is none, `refusal` is read in its place.
        refusal: A text in which the policy declines.
        tool_calls: The calls.
        function_call: Refused: the old form of a call.
        audio: Refused: the id of a sound.
    """

    role: Literal["assistant"]
    content: Text | Annotated[list[TurnPart], Field(max_length=1024, fail_fast=True)] | None = None
    refusal: Text | None = None
    tool_calls: Annotated[list[Call], Field(max_length=128, fail_fast=True)] | None = None
    function_call: None = None
    audio: None = None


class ToolMessage(Marked):
    """The result of a tool call, with text, images and videos."""

    role: Literal["tool"]
    content: Content = ""
    tool_call_id: str
    name: str | None = None


RequestMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class ToolFunction(Marked):
    """A tool: its name, what it does, and its arguments as a JSON schema."""

    name: Name
    description: Text = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: StrictBool | None = None


class Tool(Marked):
    """A tool that the policy may call."""

    type: Literal["function"]
    function: ToolFunction


class ChosenFunction(Strict):
    """The name of the tool that must be called."""

    name: str


class Chosen(Strict):
    """The choice of one tool, which must be called."""

    type: Literal["function"]
    function: ChosenFunction


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


class ResponseFormat(Strict):
    """The form of the reply: text alone, since a policy is not forced into a schema."""

    type: Literal["text"]


class ChatRequest(NeutralSettings):
    """The body of a request for a chat completion.

    Attributes:
        model: The name of a model of `/v1/models`.
        messages: The whole conversation.
        replay: Changes of the server's `ReplayConfig`, for a model with replay.
        n: The number of replies; they share prefill and replay.
        max_completion_tokens: The limit of new tokens of each reply; `max_tokens` is its old name.
        temperature: The temperature of sampling; 0 is greedy.
        top_p: The probability mass of nucleus sampling.
        top_k: The number of most probable tokens to draw from; 0 (or -1) draws from all. This
            field and the next are vLLM's.
        repetition_penalty: The penalty of tokens that the conversation holds; 1 is none.
        seed: The seed of the first reply; each further one has the next.
        stop: Texts that end a reply, and are left out of it.
        logprobs: Whether the completion has the log-probabilities of its tokens.
        top_logprobs: How many of the most probable tokens it has at each position.
        parallel_tool_calls: Whether a reply may have several tool calls.
    """

    model: str
    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=4096, fail_fast=True)]
    replay: dict[str, Any] | None = None
    n: Annotated[Count, Field(le=128)] = 1
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31, strict=True)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, strict=True)] | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16, fail_fast=True)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20, strict=True)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Chosen | None = None
    parallel_tool_calls: StrictBool | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _check_sense(self) -> Self:
        """Refuse a field that would change nothing, and names that mean two tools."""
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        names = [tool.function.name for tool in self.tools or ()]
        duplicate = next((name for name in names if names.count(name) > 1), None)
        if duplicate is not None:
            raise ValueError(f"two tools are called {duplicate!r}")
        return self

    def drop_conversation(self) -> None:
        """Let go of what may be large, once it is converted."""
        self.messages, self.tools = [], None
        for name in NeutralSettings.model_fields:
            setattr(self, name, None)

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def new_tokens(self) -> int | None:
        """The limit of new tokens of a reply; None if the request has none."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def seeds(self) -> list[int | None]:
        """The seed of each reply."""
        return [None if self.seed is None else (self.seed + i) % 2**63 for i in range(self.n)]

    @property
    def kept_logprobs(self) -> int | None:
        """The number of most probable tokens to keep; None keeps no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def choice(self) -> str | dict[str, Any] | None:
        """The tool call that is forced (`tool_choice.ToolChoice`)."""
        choice = self.tool_choice
        return choice.model_dump() if isinstance(choice, Chosen) else choice

    @property
    def signatures(self) -> list[dict[str, Any]]:
        """The tools in the form in which the prompt has them."""
        tools = self.tools or []
        shown = {"name", "description", "parameters"}
        return [
            {"type": tool.type, "function": tool.function.model_dump(include=shown)}
            for tool in tools
        ]

    @property
    def sampling(self) -> Sampling:
        """The settings of decoding that the request sets."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=None if self.top_k is None else max(self.top_k, 0),
            repetition_penalty=self.repetition_penalty,
            max_new_tokens=self.new_tokens,
        )
