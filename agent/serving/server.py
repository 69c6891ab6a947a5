"""A server that says when it serves, and that ends in the time that it is given."""

import asyncio
import socket
import sys
from collections.abc import Callable
from functools import partial

import uvicorn

from visreplay.agent.serving.auth import App
from visreplay.agent.serving.connections import BACKLOG, LimitedConnection

HEADER_BYTES = 2**14
"""Bytes that the headers of a request may have."""

FAREWELL_SECONDS = 2.0
"""Time for the last responses, once the requests have been ended."""


class Server(uvicorn.Server):
    """uvicorn's server, within limits on connections.

    uvicorn cancels requests that take too long to end: their clients get half a response, and the
    log gets tracebacks. Here the application ends them first, with an error in its own form.

    Args:
        app: The application.
        listening: A bound socket.
        max_connections: Largest number of connections; at most half of the process's file
            descriptors are used for them.
        drain: Seconds that running requests have to end when the server is stopped.
        on_start: Called as soon as requests are answered.
        end_requests: Called when this time is up; ends the requests that still run.
    """

    def __init__(
        self,
        app: App,
        listening: socket.socket,
        max_connections: int,
        drain: float,
        on_start: Callable[[], None] = lambda: None,
        end_requests: Callable[[], None] = lambda: None,
    ) -> None:
        max_connections = min(max_connections, _descriptors() // 2)
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(LimitedConnection, max_connections=max_connections),  # type: ignore[arg-type]
                ws="none",
                log_level="warning",
                backlog=BACKLOG,
                timeout_keep_alive=10,
                h11_max_incomplete_event_size=HEADER_BYTES,
                timeout_graceful_shutdown=int(drain + 2 * FAREWELL_SECONDS) + 1,
            )
        )
        self._listening = listening
        self._drain = drain
        self._on_start = on_start
        self._end_requests = end_requests

    def serve_until_stopped(self) -> None:
        """Serve until a signal stops the server."""
        self.run(sockets=[self._listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, let requests end, and end those that take too long."""
        ending = asyncio.create_task(self._end())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end(self) -> None:
        await asyncio.sleep(self._drain)
        self._end_requests()
        await asyncio.sleep(FAREWELL_SECONDS)
        # What is left waits for clients that do not read.
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _descriptors() -> int:
    """Count the file descriptors that the process may have."""
    try:
        import resource  # Windows has no such module, and no such limit
    except ImportError:
        return sys.maxsize
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
