"""Errors in the form that OpenAI's clients expect."""

import logging
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from visreplay.agent.chat.renderer import MessageError
from visreplay.agent.openai.response_schema import (
    Error,
    ErrorResponse,
    ErrorType,
    Json,
    as_json,
)
from visreplay.agent.policy.writing import WriterError
from visreplay.replay_core import LogitsError, MemoryExhaustedError, ReplayError
from visreplay.tools import ToolError

logger = logging.getLogger(__name__)

CALLERS_MISTAKES = (ReplayError, MessageError, ToolError, ValueError, RecursionError)
"""Exceptions whose message is for the caller; any other is the server's own."""


def is_callers_mistake(error: Exception) -> bool:
    """Tell whether an error is for the caller.

    Too little memory, weights that give no finite logits, and an engine that fails, are the
    server's.
    """
    return isinstance(error, CALLERS_MISTAKES) and not isinstance(
        error, LogitsError | MemoryExhaustedError | WriterError
    )


def error_body(
    message: str, kind: ErrorType, param: str | None = None, code: str | None = None
) -> Json:
    """Build the body of an error.

    Args:
        message: What is wrong, and the way out.
        kind: OpenAI's name for this kind of error.
        param: The field of the request that it is about.
        code: The HTTP status, where the response has one of its own.
    """
    error = Error(
        message=_quotable(message), type=kind, param=param and _quotable(param), code=code
    )
    return as_json(ErrorResponse(error=error))


def error_response(status: int, message: str, param: str | None = None) -> JSONResponse:
    """Build the response of an error.

    Args:
        status: The HTTP status.
        message: What is wrong, and the way out.
        param: The field of the request that it is about.
    """
    kinds: dict[int, ErrorType] = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(status)
    return JSONResponse(error_body(message, kind, param, str(status)), status, headers)


def _quotable(text: str, limit: int = 1000) -> str:
    """Shorten a text that may quote a request: megabytes, or half of a surrogate pair."""
    return text[:limit].encode("utf-8", "replace").decode()


class BodyError(Exception):
    """A body that cannot be read.

    Args:
        status: The HTTP status.
        message: What is wrong, and the way out.
        param: The field of the request that it is about.
    """

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


async def _unreadable(_: Request, error: Any) -> Response:
    return error_response(error.status, str(error), error.param)


async def _http_error(_: Request, error: Any) -> Response:
    response = error_response(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _broken(_: Request, error: Exception) -> Response:
    return error_response(500, "something went wrong here; the server's log tells more")


EXCEPTION_HANDLERS: dict[Any, Any] = {
    BodyError: _unreadable,
    HTTPException: _http_error,
    Exception: _broken,
}
"""FastAPI's exception handlers of a server that answers as OpenAI's does."""
