"""Server-sent events, and clients that leave before the end."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from visreplay.agent.openai.completion import CompletionBuilder, Json
from visreplay.agent.openai.errors import CALLERS_MISTAKES, logger

LEFT = 499
"""The status, in the counters alone, of requests whose clients were gone before the answer."""


async def sent_events(
    answer: CompletionBuilder, events: AsyncIterator[Any], usage: bool
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
