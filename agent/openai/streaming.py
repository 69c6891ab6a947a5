"""Responses that are sent piece by piece, and clients that do not read them or leave."""

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
from visreplay.agent.serving.admission import ClosedError
from visreplay.agent.serving.byte_budget import ByteShare
from visreplay.agent.serving.decoding import Event

CLIENT_LEFT = 499
"""The status, in the counters alone, of requests whose clients left before the response."""

STOPPED = "the server is being stopped"
"""The error of requests that are not answered in the time that a server has to end."""

UNREAD_BYTES = 4 * 2**20
"""Bytes of a stream that may wait for its client: several thousand tokens with the probabilities
of twenty others each."""

_PIECE = 2**16


async def sent_events(
    completion: CompletionBuilder, events: AsyncIterator[Event], usage: bool
) -> AsyncGenerator[str, None]:
    """Yield a completion as server-sent events.

    Args:
        completion: Makes chunks of the engine's events.
        events: The engine's events.
        usage: Whether a last chunk has the usage.
    """
    for chunk in completion.first_chunks():
        yield _line(as_json(chunk))
    try:
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                for chunk in completion.chunks(event):
                    yield _line(as_json(chunk))
    except ClosedError:
        yield _line(error_body(STOPPED, "server_error"))
        return
    except Exception as error:
        mistake = is_callers_mistake(error)
        if not mistake:
            logger.exception("a stream broke off")
        message = str(error) if mistake else "something went wrong here"
        yield _line(error_body(message, "invalid_request_error" if mistake else "server_error"))
        return
    if usage:
        yield _line(as_json(completion.usage_chunk()))
    yield "data: [DONE]\n\n"


def _line(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


class EventStream(StreamingResponse):
    """Server-sent events that are made as fast as the policy decodes, however slowly they are read.

    The slot is held until the last event is made or the client leaves: a client that does not read
    its stream holds up no other. What it does not read is bounded; the stream then ends early.

    Args:
        lines: The events.
        slot: Released at the end of the events.
        share: Counts the bytes that are not read yet.
    """

    def __init__(
        self, lines: AsyncGenerator[str, None], slot: AsyncExitStack, share: ByteShare
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._queued(), media_type="text/event-stream", headers=headers)
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._slot = slot
        self._share = share
        self._making = asyncio.create_task(self._make(lines))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            with self._share:
                await super().__call__(scope, receive, send)
        finally:
            self._making.cancel()
            await asyncio.wait({self._making})
            await self._slot.aclose()  # a task that is cancelled at once has done nothing

    async def _make(self, lines: AsyncGenerator[str, None]) -> None:
        try:
            async with self._slot, aclosing(lines):
                async for text in lines:
                    line = text.encode()
                    if reason := self._refusal(len(line)):
                        self._lines.put_nowait(_line(error_body(reason, "server_error")).encode())
                        break
                    self._lines.put_nowait(line)
                    await asyncio.sleep(0)  # others have their turn, however many events there are
        finally:
            self._lines.put_nowait(None)

    def _refusal(self, size: int) -> str | None:
        """Take the bytes of a line; returns why the stream ends if there are too many."""
        if self._share.held + size > UNREAD_BYTES:
            return f"more than {UNREAD_BYTES:,} bytes of the stream were not read: read it faster"
        if not self._share.take(size):
            return "too many bytes of all answers are not read: try again later"
        return None

    async def _queued(self) -> AsyncGenerator[bytes, None]:
        while (line := await self._lines.get()) is not None:
            yield line
            self._share.give_back(min(len(line), self._share.held))


class CountedResponse(StreamingResponse):
    """A JSON response whose bytes count until the client has read them, up to the last few.

    Args:
        content: The JSON.
        share: Counts its bytes, which it has taken already.
    """

    def __init__(self, content: bytes, share: ByteShare) -> None:
        headers = {"Content-Length": str(len(content))}
        super().__init__(_sliced(content), media_type="application/json", headers=headers)
        self._share = share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the content."""
        with self._share:
            await super().__call__(scope, receive, send)


async def _sliced(content: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]


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
