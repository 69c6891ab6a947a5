"""The product's server around any application, in a thread."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any

from visreplay.agent.serving.auth import App
from visreplay.agent.serving.server import Server


@dataclass
class Running:
    """A server that runs, and the address where it listens."""

    server: Server
    thread: Thread
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, sent: bytes = b"", timeout: float = 20) -> socket.socket:
        """A connection on which something was sent, or as much of it as was taken."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        with suppress(ConnectionError):
            connection.sendall(sent)
        return connection

    def stop(self) -> None:
        self.server.should_exit = True


@contextmanager
def running(
    app: App, *, max_connections: int = 128, drain: float = 1, loop: str = "auto", **options: Any
) -> Iterator[Running]:
    """The server, which has started, with options of `Server` and one of uvicorn's loops."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    bound.bind(("127.0.0.1", 0))
    server = Server(app, bound, max_connections, drain, **options)
    server.config.loop = loop
    thread = Thread(target=server.serve_until_stopped)
    found = Running(server, thread, bound.getsockname()[1])
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield found
    finally:
        found.stop()
        thread.join()


def received(connection: socket.socket) -> bytes:
    """All that comes on a connection until its end."""
    found = b""
    with connection:
        try:
            while data := connection.recv(2**16):
                found += data
        except ConnectionResetError:
            pass
    return found
