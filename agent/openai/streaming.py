"""Server-sent events, and clients that leave before the end."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from visreplay.agent.openai.completion import CompletionBuilder
from visreplay.agent.openai.errors import error_body, is_callers_mistake, logger
from visreplay.agent.openai.response_schema import as_json
from visreplay.agent.serving.decoding import Event

CLIENT_LEFT = 499
"""The status, in the counters alone, of requests whose clients left before the response."""


async def sent_events(
    completion: CompletionBuilder, events: AsyncIterator[Event], usage: bool
) -> AsyncGenerator[str, None]:
    """Yield a completion as server-sent events.

    Args:
        completion: Makes chunks of the engine's events.
        events: The engine's events.
        usage: Whether a last chunk has the usage.
    """

    def line(value: Any) -> str:
        return f"data: {json.dumps(value)}\n\n"

    for chunk in completion.first_chunks():
        yield line(as_json(chunk))
    try:
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                for chunk in completion.chunks(event):
                    yield line(as_json(chunk))
    except Exception as error:
        mistake = is_callers_mistake(error)
        if not mistake:
            logger.exception("a stream broke off")
        message = str(error) if mistake else "something went wrong here"
        yield line(error_body(message, "invalid_request_error" if mistake else "server_error"))
        return
    if usage:
        yield line(as_json(completion.usage_chunk()))
    yield "data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """Server-sent events that are made as fast as the policy decodes, however slowly they are read.

    The slot is held until the last event is made or the client leaves: a client that does not read
    its stream holds up no other.

    Args:
        lines: The events.
        slot: Released at the end of the events.
    """

    def __init__(self, lines: AsyncGenerator[str, None], slot: AsyncExitStack) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._queued(), media_type="text/event-stream", headers=headers)
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._slot = slot
        self._making = asyncio.create_task(self._make(lines))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._making.cancel()
            await asyncio.wait({self._making})
            await self._slot.aclose()  # a task that is cancelled at once has done nothing

    async def _make(self, lines: AsyncGenerator[str, None]) -> None:
        async with self._slot, aclosing(lines):
            async for line in lines:
                self._lines.put_nowait(line)
        self._lines.put_nowait(None)

    async def _queued(self) -> AsyncGenerator[str, None]:
        while (line := await self._lines.get()) is not None:
            yield line


async def while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Make a response as long as the client is connected.

    Args:
        request: The client's request.
        work: Makes the response; it is cancelled when the client leaves.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        working.cancel()
    await asyncio.wait({working})
    return Response(status_code=CLIENT_LEFT) if working.cancelled() else working.result()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
