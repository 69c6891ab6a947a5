"""How the OpenAI-compatible server responds: refusals, streams of events, and clients who leave."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from visreplay.agent.chat_messages import MessageError
from visreplay.agent.openai_chat import Answer, Json
from visreplay.replay_core import ReplayError
from visreplay.tools import ToolError

logger = logging.getLogger(__name__)

CALLERS_MISTAKES = (ReplayError, MessageError, ToolError, ValueError, RecursionError)

LEFT = 499
"""The status, in the counters alone, of requests whose clients were gone before the answer."""


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


async def sent_events(
    answer: Answer, events: AsyncIterator[Any], usage: bool
) -> AsyncGenerator[str, None]:
    """An answer as server-sent events.

    Args:
        answer: While it is written.
        events: What is written.
        usage: Whether to tell the usage at its end.
    """

    def line(value: Json) -> str:
        return f"data: {json.dumps(value)}\n\n"

    for chunk in answer.first_chunks():
        yield line(chunk)
    try:
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                for chunk in answer.chunks(event):
                    yield line(chunk)
    except Exception as error:
        mistake = isinstance(error, CALLERS_MISTAKES)
        if not mistake:
            logger.exception("a stream broke off")
        reason = str(error) if mistake else "something went wrong here"
        yield line({"error": {"message": reason, "type": "server_error"}})
        return
    if usage:
        yield line(answer.usage_chunk())
    yield "data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """Server-sent events, made as fast as the policy writes, however slowly they are taken.

    A place is held until the last one is made, or the client is gone: who does not read what he
    asked for holds up nobody.

    Args:
        lines: The events.
        held: What to let go of at their end: a place.
    """

    def __init__(self, lines: AsyncGenerator[str, None], held: AsyncExitStack) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._made(), media_type="text/event-stream", headers=headers)
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._held = held
        self._making = asyncio.create_task(self._make(lines))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._making.cancel()
            await asyncio.wait({self._making})
            await self._held.aclose()  # a task that is cancelled at once has done nothing

    async def _make(self, lines: AsyncGenerator[str, None]) -> None:
        async with self._held, aclosing(lines):
            async for line in lines:
                self._lines.put_nowait(line)
        self._lines.put_nowait(None)

    async def _made(self) -> AsyncGenerator[str, None]:
        while (line := await self._lines.get()) is not None:
            yield line


async def while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Answer a client for as long as he is there.

    Args:
        request: The client's.
        work: Makes the response; it is cancelled when he leaves.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        working.cancel()
    await asyncio.wait({working})
    return Response(status_code=LEFT) if working.cancelled() else working.result()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
