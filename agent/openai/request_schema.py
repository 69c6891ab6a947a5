"""The bodies of requests for chat completions, checked down to every field.

A few fields of OpenAI's are accepted though they change nothing. An unknown field, or one that asks
for something that this server does not do, is refused rather than ignored.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    field_validator,
    model_validator,
)

from visreplay.agent.policy.sampling import Sampling

Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]

MAX_FIELDS = 64
"""Most fields of an object: of more, not each is checked."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_size(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            raise ValueError(
                f"an object has {len(value)} fields; {MAX_FIELDS} are enough for all that there are"
            )
        return value


class TextPart(_Strict):
    """A piece of text."""

    type: Literal["text"]
    text: Text


class ImageURL(BaseModel):
    """The place of an image: a data URI, or another that the server allows."""

    url: str
    detail: str | None = None


class ImagePart(_Strict):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageURL


class VideoURL(BaseModel):
    """The place of a video."""

    url: str


class VideoPart(_Strict):
    """A video: not in OpenAI's API, but in that of other servers of vision-language models."""

    type: Literal["video_url"]
    video_url: VideoURL


ContentPart = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
Parts = Annotated[list[ContentPart], Field(max_length=1024, fail_fast=True)]
Texts = Annotated[list[TextPart], Field(max_length=1024, fail_fast=True)]
Content = Text | Parts


class SystemMessage(_Strict):
    """A message of instructions."""

    role: Literal["system", "developer"]
    content: Text | Texts
    name: str | None = None


class UserMessage(_Strict):
    """A message of the user, with text, images and videos."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class Function(BaseModel):
    """The name of a called function, and its arguments as the text of a JSON object."""

    name: str
    arguments: Text


class Call(BaseModel):
    """A tool call of the policy. Clients may add fields of their own (`parsed_arguments`)."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class AssistantMessage(BaseModel):
    """A message of the policy. Clients may send more fields of it back, which are ignored."""

    role: Literal["assistant"]
    content: Text | Texts | None = None
    tool_calls: Annotated[list[Call], Field(max_length=128, fail_fast=True)] | None = None


class ToolMessage(_Strict):
    """The result of a tool call, with text, images and videos."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


RequestMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class ToolFunction(_Strict):
    """A tool: its name, what it does, and its arguments as a JSON schema."""

    name: Name
    description: Text = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: StrictBool | None = None


class Tool(_Strict):
    """A tool that the policy may call."""

    type: Literal["function"]
    function: ToolFunction


class ChosenFunction(_Strict):
    """The name of the tool that must be called."""

    name: str


class Chosen(_Strict):
    """The choice of one tool, which must be called."""

    type: Literal["function"]
    function: ChosenFunction


class StreamOptions(_Strict):
    """Options of a stream."""

    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


class ResponseFormat(_Strict):
    """The form of the reply: text alone, since a policy is not forced into a schema."""

    type: Literal["text"]


class ChatRequest(_Strict):
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
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    # These change nothing.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: StrictBool | None = None
    service_tier: str | None = None

    @field_validator("frequency_penalty", "presence_penalty", mode="before")
    @classmethod
    def _integer_zero(cls, value: Any) -> Any:
        """Accept 0.0, as clients write 0."""
        return 0 if value == 0 and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check_sense(self) -> Self:
        """Refuse a field that would change nothing, and names that mean two tools."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        names = [tool.function.name for tool in self.tools or ()]
        duplicate = next((name for name in names if names.count(name) > 1), None)
        if duplicate is not None:
            raise ValueError(f"two tools are called {duplicate!r}")
        return self

    def drop_conversation(self) -> None:
        """Let go of what may be large, once it is converted."""
        self.messages, self.tools, self.metadata, self.user = [], None, None, None

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
        return [tool.model_dump(exclude={"function": {"strict"}}) for tool in tools]

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
