"""What clients of OpenAI's chat completions send: checked here, down to every field.

Fields that a client may send and that change nothing here are named as such; whatever is unknown,
or asks for something that is not done, is refused rather than ignored.
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
"""Of an object: whoever sends more is not told of each that it is unknown."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            raise ValueError(
                f"an object has {len(value)} fields; {MAX_FIELDS} are enough for all that there are"
            )
        return value


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


ContentPart = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
Parts = Annotated[list[ContentPart], Field(max_length=1024, fail_fast=True)]
Texts = Annotated[list[TextPart], Field(max_length=1024, fail_fast=True)]
Content = Text | Parts


class SystemMessage(_Strict):
    """Instructions."""

    role: Literal["system", "developer"]
    content: Text | Texts
    name: str | None = None


class UserMessage(_Strict):
    """What the user says and shows."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class Function(BaseModel):
    """What was called: a name, and the arguments as the text of a JSON object."""

    name: str
    arguments: Text


class Call(BaseModel):
    """A call that the policy made. Clients add what they have read in it (`parsed_arguments`)."""

    id: str
    type: Literal["function"] = "function"
    function: Function


class AssistantMessage(BaseModel):
    """What the policy said. Clients send back more than they must, which is left alone."""

    role: Literal["assistant"]
    content: Text | Texts | None = None
    tool_calls: Annotated[list[Call], Field(max_length=128, fail_fast=True)] | None = None


class ToolMessage(_Strict):
    """What a tool gave, images and clips too."""

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
    """Which function."""

    name: str


class Chosen(_Strict):
    """The tool that has to be called."""

    type: Literal["function"]
    function: ChosenFunction


class StreamOptions(_Strict):
    """How to stream."""

    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


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
    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=4096, fail_fast=True)]
    replay: dict[str, Any] | None = None
    n: Annotated[Count, Field(le=128)] = 1
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
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
    def _whole(cls, value: Any) -> Any:
        """Clients write 0 as 0.0."""
        return 0 if value == 0 and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _meant(self) -> Self:
        """Refuse what would change nothing, or mean two things."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        names = [tool.function.name for tool in self.tools or ()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two tools are called {twice!r}")
        return self

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
    def choice(self) -> str | dict[str, Any] | None:
        """Which call is forced (`chat_turns.ToolChoice`)."""
        choice = self.tool_choice
        return choice.model_dump() if isinstance(choice, Chosen) else choice

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
