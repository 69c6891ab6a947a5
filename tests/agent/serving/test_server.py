"""A server says when it serves, and ends in its time, whatever its clients do."""

import asyncio
import json
import logging
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from stoppable import received, running

from visreplay.agent.openai.errors import error_body, error_response
from visreplay.agent.serving.http import BodyLimit


class Stopped:
    """An application whose requests last until they are ended."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        routes = [
            Route("/plain", self.plain, methods=["GET", "POST"]),
            Route("/stream", self.stream),
        ]
        self.app = BodyLimit(Starlette(routes=routes), 1000, 60, error_response)

    def end_requests(self) -> None:
        self.ending.set()
        self.app.close()

    async def plain(self, _: Request) -> JSONResponse:
        await self.ending.wait()
        return error_response(503, "stopped")

    async def stream(self, _: Request) -> StreamingResponse:
        async def lines() -> object:
            yield "data: 1\n\n"
            await self.ending.wait()
            yield json.dumps(error_body("stopped", "server_error"))

        return StreamingResponse(lines(), media_type="text/event-stream")  # type: ignore[arg-type]


def asks(path: str, method: str = "GET", *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def test_requests_that_outlast_the_drain_get_an_error(caplog: pytest.LogCaptureFixture) -> None:
    stopped = Stopped()
    began = []
    with running(
        stopped.app,
        drain=0.3,
        on_start=lambda: began.append(1),
        end_requests=stopped.end_requests,
    ) as server:
        assert began
        plain, stream = server.connect(asks("/plain")), server.connect(asks("/stream"))
        half = server.connect(
            asks("/plain").replace(b"GET", b"POST")[:-2] + b"Content-Length: 9\r\n\r\n"
        )
        headers = server.connect(asks("/plain")[:-2])
        assert stream.recv(2**16)
        server.stop()
        for connection in (plain, half):
            found = received(connection)
            assert found.startswith(b"HTTP/1.1 503 ")
            assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["code"] == "503"
        assert received(stream).endswith(b"}}\r\n0\r\n\r\n")
        assert received(headers) == b""
        server.thread.join(30)
        assert not server.thread.is_alive()
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_a_client_that_never_reads_does_not_keep_the_server() -> None:
    async def endless(_: Request) -> StreamingResponse:
        async def pieces() -> object:
            while True:
                yield b"a" * 10_000
                await asyncio.sleep(0)
            await asyncio.sleep(0)

        return StreamingResponse(pieces())  # type: ignore[arg-type]

    app = Starlette(routes=[Route("/", endless)])
    with running(app, drain=0) as server, server.connect(asks("/")):
        while not server.server.server_state.tasks:
            time.sleep(0.01)
        server.stop()
        server.thread.join(30)
        assert not server.thread.is_alive()


def test_nobody_connects_after_the_stop() -> None:
    stopped = Stopped()
    with running(stopped.app, drain=30, end_requests=stopped.end_requests) as server:
        waiting = server.connect(asks("/plain"))
        server.stop()
        with pytest.raises(httpx.ConnectError):
            for _ in range(1000):
                httpx.get(server.url + "/nothing")
                time.sleep(0.01)
        server.server._end_requests()  # long before its time
        assert received(waiting).startswith(b"HTTP/1.1 503 ")
