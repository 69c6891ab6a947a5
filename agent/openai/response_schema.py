"""What the server answers, as its OpenAPI document describes it.

`openai_chat.py` makes the answers; the tests hold them to this.
"""

from typing import Any, Literal

from pydantic import BaseModel


class Error(BaseModel):
    """What went wrong, as OpenAI's clients expect it."""

    message: str
    type: Literal[
        "invalid_request_error", "authentication_error", "rate_limit_error", "server_error"
    ]
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every answer that is none."""

    error: Error


class CalledFunction(BaseModel):
    """The tool's name, and its arguments as the text of a JSON object."""

    name: str
    arguments: str


class MadeCall(BaseModel):
    """A call that the policy makes."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class CompletionMessage(BaseModel):
    """What the policy says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[MadeCall] | None = None


class ProbableToken(BaseModel):
    """A token; one that is a part of a character has no bytes of its own."""

    token: str
    logprob: float
    bytes: list[int] | None


class WrittenToken(ProbableToken):
    """A token of the answer, and what else was probable at its place."""

    top_logprobs: list[ProbableToken]


class Logprobs(BaseModel):
    """How probable the tokens were."""

    content: list[WrittenToken]
    refusal: None


class Choice(BaseModel):
    """One of the answers."""

    index: int
    message: CompletionMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: Logprobs | None


class PromptDetails(BaseModel):
    """Of the tokens that were read: how many had been read before."""

    cached_tokens: int


class Usage(BaseModel):
    """How many tokens were read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Completion(BaseModel):
    """A chat completion, and besides what OpenAI's have what replay did on what was read last."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    replay: dict[str, Any] | None


class Served(BaseModel):
    """A model that can be named."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ServedModels(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Served]


class Health(BaseModel):
    """That the server works, and for how many."""

    status: Literal["ok"]
    running: int
    waiting: int


_STATUSES = {
    400: "The body is no text: JSON in UTF-8 is expected.",
    401: "The key is missing or wrong.",
    403: "Without a key, programs of this machine alone are answered.",
    404: "There is no such model.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    422: "Something is wrong with the request: the message names it, and the way out.",
    429: "Too many wait already: ask again later.",
    500: "Something went wrong in the server.",
    503: "The server does not work any more.",
}

_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


def described(model: type[BaseModel], *statuses: int, streams: bool = False) -> dict[Any, Any]:
    """FastAPI's `responses` of a path.

    Args:
        model: Of the answer.
        *statuses: The errors.
        streams: Whether the answer may come as server-sent events.
    """
    refusals = {
        status: {"model": ErrorResponse, "description": _STATUSES[status]} for status in statuses
    }
    answer: dict[str, Any] = {"model": model, "description": "The answer."}
    return {200: answer | ({"content": _STREAM} if streams else {}), **refusals}
