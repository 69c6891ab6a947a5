"""Connections that send nothing, or half of a request, do not stay."""

import socket
from collections.abc import Iterator

import httpx
import pytest
from served import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from visreplay.agent.serving import http as http_limits
from visreplay.agent.serving.http import HeadersInTime


async def hello(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(http_limits, "HEADER_SECONDS", 0.3)
    app = Starlette(routes=[Route("/", hello)])
    with served(app, http=HeadersInTime) as url:
        yield "127.0.0.1", httpx.URL(url).port or 0


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: loc", REQUEST + b"GET / HT"])
def test_a_connection_that_stops_half_way_is_closed(address: tuple[str, int], sent: bytes) -> None:
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(sent)
        received = b""
        while data := connection.recv(4096):  # until the server closes
            received += data
    assert received.count(b"hello") == sent.count(b"\r\n\r\n")


def test_requests_on_one_connection_are_answered(address: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as client:
        assert [client.get("/").text for _ in range(3)] == ["hello"] * 3
