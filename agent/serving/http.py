"""Limits of HTTP: the bytes of a body, and the time that a client may take to send it."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from visreplay.agent.serving.auth import App, Receive, Scope, Send
from visreplay.agent.serving.json_bounds import JsonBounds, JsonBoundsError, JsonCounter

HEADER_SECONDS = 10.0
"""Time that a client may take to send the headers of a request."""

ErrorResponder = Callable[[int, str], App]
"""Makes the response of a status and a message."""


class BodyLimit:
    """ASGI middleware that receives the whole body of a request before it passes it on.

    Args:
        app: The application behind it.
        max_bytes: Bytes of the largest body; a larger one is answered with 413.
        seconds: Time that a client may take to send a body; after that it is answered with 408.
        refuse: Makes these responses.
        max_held: Bytes of all unfinished bodies together; a request that goes beyond is answered
            with 429. By default 16 of the largest bodies.
        bounds: Bounds on the JSON of a body, which is counted while it arrives; None sets none.
    """

    def __init__(
        self,
        app: App,
        max_bytes: int,
        seconds: float,
        refuse: ErrorResponder,
        max_held: int | None = None,
        bounds: JsonBounds | None = None,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._refuse = refuse
        self._max_held = 16 * max_bytes if max_held is None else max_held
        self._held = 0
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                refusal = await self._receive(body, receive)
        except TimeoutError:
            refusal = 408, f"the body did not come within {self._seconds:g} seconds"
        except JsonBoundsError as error:
            refusal = error.status, str(error)
        finally:
            self._held -= len(body)
        if refusal is None:
            whole: list[Any] = [{"type": "http.request", "body": bytes(body), "more_body": False}]
            del body

            async def receive_again() -> Any:
                return whole.pop() if whole else await receive()

            await self._app(scope, receive_again, send)
        elif refusal[0]:
            await self._refuse(*refusal)(scope, receive, send)

    async def _receive(self, body: bytearray, receive: Receive) -> tuple[int, str] | None:
        """Receive a body; returns a status (0: nobody is left to answer) and a reason to refuse."""
        counter = None if self._bounds is None else JsonCounter(self._bounds)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return 0, "the client has left"
            new = message.get("body", b"")
            body += new
            self._held += len(new)
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                return 413, f"the body has more than {self._max_bytes:,} bytes"
            if self._held > self._max_held:
                return 429, "too many bytes are being sent at once: try again later"
            if counter is not None:
                counter.push(new)
        return None


class HeadersInTime(H11Protocol):
    """uvicorn's protocol of a connection, which is closed if headers do not come in time.

    uvicorn itself waits for ever for the first request, and for the rest of its headers.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take data; stop to wait when a request begins."""
        if self._deadline is None and self._between_requests:
            self._wait()
        super().data_received(data)
        if not self._between_requests:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait."""
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        if self._between_requests:
            self.transport.close()
