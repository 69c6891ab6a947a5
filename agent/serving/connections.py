"""Limits of a connection: the time of its client, and how many there are."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""Time that a client may take to send the headers of a request."""

WRITE_SECONDS = 30.0
"""Time in which a client must take some bytes of what it is sent."""

PIECE = 2**12
"""Bytes that are taken from a connection at once. HTTP's smallest chunk is 6 bytes, so this bounds
what is parsed before others have their turn."""

BACKLOG = 128
"""Connections that wait to be accepted."""


class LimitedConnection(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's protocol of a connection, which a client cannot hold for ever.

    uvicorn waits without an end for the headers of a request, and for a client that does not read.
    Its `limit_concurrency` refuses requests once there are so many connections, but closes none of
    them. Here the oldest connection that waits for its client makes room for a new one, so that
    half a request, sent a thousand times, shuts out nobody.

    Args:
        *given: uvicorn's arguments.
        max_connections: Largest number of connections.
        **options: uvicorn's arguments.
    """

    _headers_due: asyncio.TimerHandle | None = None
    _reading_due: asyncio.TimerHandle | None = None
    _writing_paused = False
    _since = 0.0

    def __init__(self, *given: Any, max_connections: int, **options: Any) -> None:
        super().__init__(*given, **options)
        self._max_connections = max_connections

    def get_buffer(self, sizehint: int) -> bytearray:
        """Provide the buffer that the next bytes are received in."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes that were received."""
        self.data_received(bytes(memoryview(self._buffer)[:nbytes]))

    def connection_made(self, transport: Any) -> None:
        """Start to wait for a request."""
        if len(self.connections) >= self._max_connections:
            others: list[Any] = list(self.connections)
            if waiting := [each for each in others if each._waits_for_client]:
                oldest = min(waiting, key=lambda each: each._since)
                oldest.transport.abort()
                self.connections.discard(oldest)
        super().connection_made(transport)
        self._buffer = bytearray(PIECE)
        self._since = self.loop.time()
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Take data; stop to wait for headers when a request begins."""
        between = self._between_requests
        if self._headers_due is None and between:
            self._wait_for_headers()
        super().data_received(data)
        if not self._between_requests:
            self._stop_waiting_for_headers()
            if between:
                self._since = self.loop.time()

    def pause_writing(self) -> None:
        """Start to wait for the client to read."""
        super().pause_writing()
        self._writing_paused = True
        self._wait_for_reading()

    def resume_writing(self) -> None:
        """Stop to wait for the client to read."""
        super().resume_writing()
        self._writing_paused = False
        if self._reading_due is not None:
            self._reading_due.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait."""
        self._stop_waiting_for_headers()
        if self._reading_due is not None:
            self._reading_due.cancel()
        super().connection_lost(exc)

    @property
    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _waits_for_client(self) -> bool:
        """Whether it is the client's turn: to send a request, the rest of it, or to read."""
        return self._between_requests or self.cycle.more_body or self._writing_paused

    def _wait_for_headers(self) -> None:
        self._headers_due = self.loop.call_later(HEADER_SECONDS, self._close)

    def _stop_waiting_for_headers(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _close(self) -> None:
        if self._between_requests:
            self.transport.close()

    def _wait_for_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._reading_due = self.loop.call_later(WRITE_SECONDS, self._check_reading, unread)

    def _check_reading(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._wait_for_reading()
        else:
            self.transport.abort()
