"""The bodies of the server's responses: what it sends is built from these models.

A field that a body may lack is left unset, and sent only where it is set (`as_json`).
"""

from typing import Any, Literal

from pydantic import BaseModel

Json = dict[str, Any]


ErrorType = Literal[
    "invalid_request_error", "authentication_error", "rate_limit_error", "server_error"
]


class Error(BaseModel):
    """An error in the form that OpenAI's clients expect."""

    message: str
    type: ErrorType
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every response that is an error."""

    error: Error


class CalledFunction(BaseModel):
    """The tool's name, and its arguments as the text of a JSON object."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A tool call of the policy."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class CompletionMessage(BaseModel):
    """The policy's reply."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] | None = None


class TokenProbability(BaseModel):
    """A token with its log-probability; a token that is a part of a character has no bytes."""

    token: str
    logprob: float
    bytes: list[int] | None


class ContentToken(TokenProbability):
    """A token of the content, with the most probable tokens at its position."""

    top_logprobs: list[TokenProbability]


class Logprobs(BaseModel):
    """The log-probabilities of the tokens of the content."""

    content: list[ContentToken]
    refusal: None


FinishReason = Literal["stop", "length", "tool_calls"]


class Choice(BaseModel):
    """One of the replies."""

    index: int
    message: CompletionMessage
    finish_reason: FinishReason
    logprobs: Logprobs | None


class PromptDetails(BaseModel):
    """The number of prompt tokens that were in the cache."""

    cached_tokens: int


class Usage(BaseModel):
    """The tokens of the prompt and of all replies."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Completion(BaseModel):
    """A chat completion in OpenAI's form, with the report of the last replay (`replay`)."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    replay: Json | None


class ToolCallDelta(ToolCall):
    """A tool call of a stream, which always comes as a whole."""

    index: int


class Delta(BaseModel):
    """The part of a reply that a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(BaseModel):
    """The reply that a chunk belongs to, and what it adds."""

    index: int
    delta: Delta
    finish_reason: FinishReason | None
    logprobs: Logprobs | None


class CompletionChunk(BaseModel):
    """A part of a streamed chat completion; the last one of a reply has the `replay` report."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    replay: Json | None = None


class Model(BaseModel):
    """A model that a request can name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    """All models that a request can name."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """The state of a server that works: the turns it works on, and the requests that wait."""

    status: Literal["ok"]
    running: int
    waiting: int


_STATUSES = {
    400: "The body cannot be decoded: JSON in UTF-8 is expected, in few levels.",
    401: "The key is missing or wrong.",
    403: "Without a key, only programs of this machine are answered.",
    404: "There is no such model.",
    408: "The body did not come in time.",
    413: "The body is too large, or its JSON has too many bytes or values.",
    422: "Something is wrong with the request: the message names it, and the way out.",
    429: "Too many requests, or bytes of requests, wait already: try again later.",
    500: "Something went wrong in the server.",
    503: "The server does not work any more, or is being stopped.",
}

_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


def as_json(body: BaseModel) -> Json:
    """Return a body as JSON values, without the fields that were left unset."""
    return body.model_dump(exclude_unset=True)


def responses_of(model: type[BaseModel], *statuses: int, streams: bool = False) -> dict[Any, Any]:
    """Describe the responses of a path for FastAPI.

    Args:
        model: The body of a successful response.
        *statuses: The statuses of its errors.
        streams: Whether a successful response may also be a stream of server-sent events.
    """
    errors = {
        status: {"model": ErrorResponse, "description": _STATUSES[status]} for status in statuses
    }
    success: dict[str, Any] = {"model": model, "description": "Success."}
    return {200: success | ({"content": _STREAM} if streams else {}), **errors}
