"""Limits of the body of a request, and the time that a client may take to send it."""

import asyncio
from collections.abc import Callable
from typing import Any

from visreplay.agent.serving.auth import App, Receive, Scope, Send
from visreplay.agent.serving.byte_budget import ByteBudget, ByteShare
from visreplay.agent.serving.json_bounds import JsonBounds, JsonBoundsError, JsonCounter

_PIECE = 2**14
"""Bytes of JSON that are counted at once."""

ErrorResponder = Callable[[int, str], App]
"""Makes the response of a status and a message."""


class BodyLimit:
    """ASGI middleware that receives the whole body of a request before it passes it on.

    Args:
        app: The application behind it.
        max_bytes: Bytes of the largest body; a larger one is answered with 413.
        seconds: Time that a client may take to send a body; after that it is answered with 408.
        refuse: Makes these responses.
        budget: Bytes of all requests that are received or answered; a request that goes beyond is
            answered with 429. By default 16 of the largest bodies.
        bounds: Bounds on the JSON of a body, which is counted while it arrives; None sets none.
    """

    def __init__(
        self,
        app: App,
        max_bytes: int,
        seconds: float,
        refuse: ErrorResponder,
        budget: ByteBudget | None = None,
        bounds: JsonBounds | None = None,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._refuse = refuse
        self._budget = ByteBudget(16 * max_bytes) if budget is None else budget
        self._bounds = bounds
        self._clocks: set[asyncio.Timeout] = set()
        self._closed = False

    def close(self) -> None:
        """Answer with 503 what is not received yet."""
        self._closed = True
        for clock in self._clocks:
            if not clock.expired():
                clock.reschedule(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._budget.share() as share:
            body = bytearray()
            refusal = await self._received(body, share, receive)
            if refusal is None:
                message = {"type": "http.request", "body": bytes(body), "more_body": False}
                whole: list[Any] = [message]
                # The count stays until the response, but the bytes are the application's alone.
                del body, message

                async def receive_again() -> Any:
                    return whole.pop() if whole else await receive()

                await self._app(scope, receive_again, send)
            elif refusal[0]:
                await self._refuse(*refusal)(scope, receive, send)

    async def _received(
        self, body: bytearray, share: ByteShare, receive: Receive
    ) -> tuple[int, str] | None:
        """Receive a body in time; returns as `_receive`."""
        clock = asyncio.timeout(0 if self._closed else self._seconds)
        self._clocks.add(clock)
        try:
            async with clock:
                return await self._receive(body, share, receive)
        except TimeoutError:
            if self._closed:
                return 503, "the server is being stopped"
            return 408, f"the body did not come within {self._seconds:g} seconds"
        except JsonBoundsError as error:
            return error.status, str(error)
        finally:
            self._clocks.discard(clock)

    async def _receive(
        self, body: bytearray, share: ByteShare, receive: Receive
    ) -> tuple[int, str] | None:
        """Receive a body; returns a status (0: nobody is left to answer) and a reason to refuse."""
        counter = JsonCounter(self._bounds) if self._bounds else None
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return 0, "the client has left"
            new = message.get("body", b"")
            more = message.get("more_body", False)
            body += new
            if len(body) > self._max_bytes:
                return 413, f"the body has more than {self._max_bytes:,} bytes"
            if not share.take(len(new)):
                return 429, "the requests of all clients have too many bytes: try again later"
            if counter is not None:
                for start in range(0, len(new), _PIECE):
                    counter.push(new[start : start + _PIECE])
                    await asyncio.sleep(0)  # others have their turn
        return None
