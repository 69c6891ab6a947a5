"""Connections that send nothing, half of a request, or do not read, do not stay."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from stoppable import Running, received, running

from visreplay.agent.serving import connections
from visreplay.agent.serving.connections import PIECE


async def hello(request: Request) -> PlainTextResponse:
    try:
        return PlainTextResponse(f"hello {len(await request.body())}")
    except ClientDisconnect:
        return PlainTextResponse("nobody")


async def endless(_: Request) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"a" * 10_000
            await asyncio.sleep(0)

    return StreamingResponse(pieces())


async def for_ever(_: Request) -> PlainTextResponse:
    await asyncio.Event().wait()
    return PlainTextResponse("never")


APP = Starlette(
    routes=[
        Route("/", hello, methods=["GET", "POST"]),
        Route("/endless", endless),
        Route("/for-ever", for_ever),
    ]
)
LIMIT = 20
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.3)
    monkeypatch.setattr("visreplay.agent.serving.server.FAREWELL_SECONDS", 0.1)
    with running(APP, max_connections=LIMIT, drain=0) as server:
        server.server.config.timeout_keep_alive = 1
        yield server


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: loc", REQUEST + b"GET / HT"])
def test_a_connection_that_stops_half_way_is_closed(server: Running, sent: bytes) -> None:
    assert received(server.connect(sent)).count(b"hello") == sent.count(b"\r\n\r\n")


def test_requests_on_one_connection_are_answered(server: Running) -> None:
    with httpx.Client(base_url=server.url) as client:
        assert [client.get("/").text for _ in range(3)] == ["hello 0"] * 3
        for size in (1, PIECE - 1, PIECE, PIECE + 1, 40 * PIECE + 7):
            assert client.post("/", content=b"a" * size).text == f"hello {size}"


@pytest.mark.parametrize("sent", [b"", BODY[:30], BODY, REQUEST])
def test_half_requests_shut_out_nobody(
    server: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Also idle connections, and more than there may be."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 60)
    half = [server.connect(sent) for _ in range(5 * LIMIT)]
    assert httpx.get(server.url).text == "hello 0"
    assert len(server.server.server_state.connections) <= LIMIT
    # The oldest have made room.
    assert received(half[0]).count(b"hello") == sent.count(b"GET")
    for connection in half:
        connection.close()


def test_requests_that_are_answered_stay(server: Running) -> None:
    working = b"GET /for-ever HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answered = [server.connect(working) for _ in range(5)]
    httpx.get(server.url)
    half = [server.connect(BODY) for _ in range(3 * LIMIT)]
    assert httpx.get(server.url).text == "hello 0"
    for connection in answered:
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    for connection in (*answered, *half):
        connection.close()


def test_a_client_that_does_not_read_is_left(server: Running) -> None:
    connection = server.connect(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
    slow = server.connect(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
    state = server.server.server_state
    while len(state.tasks) < 2:
        time.sleep(0.01)
    while len(state.connections) > 1:
        slow.recv(2**16)
    assert len(received(connection)) > 0
    assert slow.recv(1000)  # which reads, and stays
    slow.close()


def test_headers_have_a_limit(server: Running) -> None:
    many = b"".join(b"a%d: b\r\n" % number for number in range(20_000))
    found = received(server.connect(REQUEST[:-2] + many + b"\r\n"))
    assert found == b"" or found.startswith(b"HTTP/1.1 400 ")
    assert httpx.get(server.url).text == "hello 0"
