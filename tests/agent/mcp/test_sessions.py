"""Sessions that clients leave behind, and messages that cannot be read: over sockets and pipes."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from mcp import ClientSession
from mcp.server.fastmcp import FastMCP
from mcp_sessions import HEADERS, INITIALIZE, SESSION, layered, opened, post
from served import ENVIRONMENT, served, with_session

from visreplay.agent.serving.json_bounds import JsonBounds

LIMIT = 4
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
DEEP = "[" * 100_000 + "]" * 100_000
CALL = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"f","arguments":{"a":%s}}}'
PING_OF = '{"jsonrpc":"2.0","id":%s,"method":"ping"}'
UNREADABLE: dict[str, str | bytes] = {
    "brackets": DEEP,
    "objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "brackets in an argument": CALL % DEEP,
    "unclosed brackets": "[" * 100_000,
    "an id of many digits": PING_OF % ("1" * 5000),
    "an id of many digits below zero": PING_OF % ("-" + "1" * 5000),
    "an argument of many digits": CALL % ("1" * 5000),
    "half of a surrogate pair": PING_OF % '"\\ud800"',
    "the other half": CALL % '"\\uDC00"',
    "no UTF-8": b'{"jsonrpc":"2.0","id":1,"method":"\x80"}',
    "another encoding": json.dumps(PING).encode("utf-16"),
    "no JSON": "{garbage",
    "no object": "[]",
    "a word": "null",
}


def server() -> FastMCP:
    """A server without models, in whose place stands a tool that needs none."""
    fast: FastMCP = FastMCP("test", log_level="WARNING", max_sessions=2 * LIMIT)

    @fast.tool()
    def f(a: int = 1) -> str:
        """Do nothing."""
        return "ok"

    return fast


@pytest.fixture
def url() -> Iterator[str]:
    """The layers of `http_app`, with a small limit."""
    app = layered(server(), LIMIT, 2**24, JsonBounds(2**20, values=10_000))
    with served(app) as address:
        yield f"{address}/mcp"


def test_the_session_that_was_idle_for_longest_makes_room(url: str) -> None:
    first, *others = [opened(url) for _ in range(LIMIT)]
    assert post(url, PING, first).status_code == 200  # it is not the one used least recently now
    opened(url)
    assert [post(url, PING, each).status_code for each in (first, *others)] == [200, 404, 200, 200]
    for _ in range(5 * LIMIT):
        opened(url)
    assert post(url, PING, first).status_code == 404


def test_a_session_with_an_open_stream_is_not_idle(url: str) -> None:
    session = opened(url)
    headers = {**HEADERS, SESSION: session}
    with httpx.stream("GET", url, headers=headers, timeout=30) as stream:
        assert stream.status_code == 200
        for _ in range(3 * LIMIT):
            opened(url)
        assert post(url, PING, session).status_code == 200


def test_where_no_session_is_idle_the_sdks_limit_holds(url: str) -> None:
    sessions = [opened(url) for _ in range(LIMIT)]
    clients = [httpx.Client(headers={**HEADERS, SESSION: each}, timeout=30) for each in sessions]
    streams = [client.stream("GET", url) for client in clients]
    try:
        for stream in streams:
            assert stream.__enter__().status_code == 200
        statuses = [post(url, INITIALIZE).status_code for _ in range(LIMIT + 3)]
        assert statuses == [200] * len(statuses)
        assert [post(url, PING, each).status_code for each in sessions] == [200] * LIMIT
    finally:
        for stream, client in zip(streams, clients, strict=True):
            stream.__exit__(None, None, None)
            client.close()


def test_a_session_that_its_client_ends_leaves_room(url: str) -> None:
    kept = opened(url)
    for _ in range(3 * LIMIT):
        session = opened(url)
        response = httpx.delete(url, headers={**HEADERS, SESSION: session})
        assert response.status_code == 200
    assert post(url, PING, kept).status_code == 200


def test_a_web_page_ends_no_session(url: str) -> None:
    sessions = [opened(url) for _ in range(LIMIT)]
    for _ in range(LIMIT):
        headers = {**HEADERS, "Origin": "http://example.org"}
        assert httpx.post(url, headers=headers, json=INITIALIZE).status_code == 403
    assert [post(url, PING, each).status_code for each in sessions] == [200] * LIMIT


def test_a_real_client_after_many_that_forgot(url: str) -> None:
    async def forgetful(session: ClientSession) -> None:
        assert (await session.list_tools()).tools

    for _ in range(2 * LIMIT):
        opened(url)
    with_session(url, forgetful)


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_is_answered_over_http(
    url: str, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    session = opened(url)
    with caplog.at_level(logging.WARNING):
        for of in (None, session):
            response = post(url, UNREADABLE[what], of)
            assert response.status_code == 400
            assert response.json()["jsonrpc"] == "2.0"
            assert response.json()["error"]["code"] in (-32700, -32600, -32602)
    assert not [record for record in caplog.records if record.exc_info]
    assert post(url, PING, session).status_code == 200


def test_whole_surrogate_pairs_pass(url: str) -> None:
    assert post(url, PING_OF % '"\\ud83d\\ude00"', opened(url)).status_code == 200


def test_too_many_values_are_refused(url: str) -> None:
    response = post(url, CALL % ("[" + "[]," * 20_000 + "1]"), opened(url))
    assert (response.status_code, response.json()["error"]["code"]) == (413, -32600)


OVER_STDIO = """
from mcp.server.fastmcp import FastMCP
from visreplay.agent.mcp.stdio import serve_stdio

fast = FastMCP("test", log_level="WARNING")

@fast.tool()
def f(a: int = 1) -> str:
    return "ok"

serve_stdio(fast)
"""


def test_what_cannot_be_read_is_answered_over_stdio() -> None:
    lines = [json.dumps(INITIALIZE), '{"jsonrpc":"2.0","method":"notifications/initialized"}']
    lines += [each for each in UNREADABLE.values() if isinstance(each, str)]
    unreadable = len(lines) - 2
    lines.append(CALL % "7")
    with subprocess.Popen(
        [sys.executable, "-c", OVER_STDIO],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("\n".join(lines) + "\n")
        process.stdin.flush()
        answers: list[Any] = []
        while not answers or answers[-1].get("id") != 1:
            answers.append(json.loads(process.stdout.readline()))
        process.stdin.close()
        assert process.stdout.read() == ""
        assert "Traceback" not in process.stderr.read()
    errors = [answer["error"]["code"] for answer in answers if "error" in answer]
    assert errors == [-32700] * unreadable
    assert answers[-1]["result"]["content"] == [{"type": "text", "text": "ok"}]
