"""How the OpenAI-compatible server responds: refusals, streams of events, and clients who leave."""

import logging
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from visreplay.agent.chat.renderer import MessageError
from visreplay.replay_core import ReplayError
from visreplay.tools import ToolError

logger = logging.getLogger(__name__)

CALLERS_MISTAKES = (ReplayError, MessageError, ToolError, ValueError, RecursionError)


def refusal(status: int, reason: str, param: str | None = None) -> JSONResponse:
    """An error as OpenAI's clients expect it.

    Args:
        status: Of HTTP.
        reason: What is wrong, and the way out.
        param: The field that it is about.
    """
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(status)
    reason = _fit(reason)
    param = param and _fit(param)
    error = {"message": reason, "type": kind, "param": param, "code": str(status)}
    return JSONResponse({"error": error}, status, headers)


def _fit(told: str, most: int = 1000) -> str:
    """What may quote a caller, who may have sent megabytes, and half of a character."""
    return told[:most].encode("utf-8", "replace").decode()


async def _invalid(_: Request, error: Any) -> Response:
    where, what = _mistake(error)
    return refusal(422, f"{where or 'the body'}: {what}", where or None)


async def _refused(_: Request, error: Any) -> Response:
    response = refusal(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _broken(_: Request, error: Exception) -> Response:
    return refusal(500, "something went wrong here; the server's log tells more")


EXCEPTION_HANDLERS: dict[Any, Any] = {
    RequestValidationError: _invalid,
    HTTPException: _refused,
    Exception: _broken,
}
"""FastAPI's, for the errors of a server that speaks as OpenAI's does."""


def _mistake(error: RequestValidationError) -> tuple[str, str]:
    errors = error.errors()
    if errors[0]["type"] == "json_invalid":
        return "", f"no JSON: {errors[0]['ctx']['error']} at character {errors[0]['loc'][-1]}"
    # Where a field may be one of several things, what was meant is where most of it was right.
    deepest = max(errors, key=lambda each: len(each["loc"]))
    # Without the names of types.
    names = [str(part) for part in deepest["loc"][1:] if not str(part).endswith(("]", "str"))]
    return ".".join(names), deepest["msg"]
