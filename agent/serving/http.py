"""What a server takes of requests and connections, and for how long it waits for them."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from visreplay.agent.serving.auth import App, Receive, Scope, Send

HEADER_SECONDS = 10.0
"""For which a connection may take to send the headers of a request."""

Refusal = Callable[[int, str], App]
"""Makes the answer of a status and a reason."""


class BodyLimit:
    """An ASGI application that reads the whole body first, within bounds.

    Args:
        app: What gets it.
        max_bytes: Of a body; more is answered with 413.
        seconds: For which a client may take to send it; then it is answered with 408.
        refuse: Answers with a status and a reason.
        max_held: Bytes of all bodies that are being read; what would go beyond is answered with
            429. By default 16 of the largest.
    """

    def __init__(
        self,
        app: App,
        max_bytes: int,
        seconds: float,
        refuse: Refusal,
        max_held: int | None = None,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._refuse = refuse
        self._max_held = 16 * max_bytes if max_held is None else max_held
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                refused = await self._read(body, receive)
        except TimeoutError:
            refused = 408, f"the body did not come within {self._seconds:g} seconds"
        finally:
            self._held -= len(body)
        if refused is None:
            unread: list[Any] = [{"type": "http.request", "body": bytes(body), "more_body": False}]
            del body

            async def receive_again() -> Any:
                return unread.pop() if unread else await receive()

            await self._app(scope, receive_again, send)
        elif refused[0]:
            await self._refuse(*refused)(scope, receive, send)

    async def _read(self, body: bytearray, receive: Receive) -> tuple[int, str] | None:
        """Read a body; returns the status and the reason if it is refused."""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return 0, "nobody is there"
            new = message.get("body", b"")
            body += new
            self._held += len(new)
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                return 413, f"the body has more than {self._max_bytes:,} bytes"
            if self._held > self._max_held:
                return 429, "too many bytes are being sent at once: ask again later"
        return None


class HeadersInTime(H11Protocol):
    """uvicorn's protocol of a connection, closed unless a request begins within some seconds.

    uvicorn itself waits for ever for the first request, and for the rest of headers.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Some of a request came."""
        if self._deadline is None and self._between_requests:
            self._wait()
        super().data_received(data)
        if not self._between_requests:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
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
