"""How a body is received, message by message, and passed on; and who needs a key."""

import asyncio
from typing import Any

import pytest

from visreplay.agent.openai.errors import error_response
from visreplay.agent.serving.auth import KeyRequired
from visreplay.agent.serving.byte_budget import ByteBudget
from visreplay.agent.serving.http import BodyLimit
from visreplay.agent.serving.json_bounds import JsonBounds

Messages = list[dict[str, Any]]


async def send_body(*pieces: Any, seconds: float = 5, kind: str = "http", **given: Any) -> Any:
    """Send a body in pieces; returns the messages passed on, those sent back, and those left."""
    left: Messages = [
        piece
        if isinstance(piece, dict)
        else {"type": "http.request", "body": piece, "more_body": n + 1 < len(pieces)}
        for n, piece in enumerate(pieces)
    ]
    given_on: Messages = []
    sent: Messages = []

    async def receive() -> Any:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given_on.append(await receive())

    limit = BodyLimit(app, 10, seconds, error_response, **given)
    await limit({"type": kind, "method": "POST", "headers": []}, receive, send)
    return given_on, sent, left


async def test_a_body_in_pieces_is_passed_on_as_one() -> None:
    for pieces in ((b"0123456789",), (b"01234", b"", b"56789"), (b"",)):
        (message,), sent, _ = await send_body(*pieces)
        assert message == {"type": "http.request", "body": b"".join(pieces), "more_body": False}
        assert sent == []


async def test_a_body_is_received_no_further_than_its_limit() -> None:
    given, sent, left = await send_body(b"01234", b"567890", b"x" * 100)
    assert given == [] and sent[0]["status"] == 413
    assert [message["body"] for message in left] == [b"x" * 100]


async def test_a_client_that_is_slow_or_leaves_is_not_waited_for() -> None:
    waits = {"type": "http.request", "body": b"0", "more_body": True}
    given, sent, _ = await send_body(waits, seconds=0.01)
    assert given == [] and sent[0]["status"] == 408
    given, sent, _ = await send_body(waits, {"type": "http.disconnect"})
    assert given == sent == []


async def test_json_beyond_its_bounds_is_received_no_further() -> None:
    bounds = JsonBounds(bytes=8, values=3)
    for body, status in ((b"[[],[],1]", 413), (b"[1,     1]", 413), (b"[]]", 400), (b"\0", 400)):
        pieces = [body[n : n + 1] for n in range(len(body))]
        given, sent, left = await send_body(*pieces, b"", bounds=bounds)
        assert given == [] and sent[0]["status"] == status, body
        assert left
    (message,), sent, _ = await send_body(b"[1,", b"2] ", bounds=bounds)
    assert message["body"] == b"[1,2] " and sent == []


async def test_bytes_count_until_the_request_is_answered() -> None:
    budget = ByteBudget(10)
    answering, answered = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        answering.set()
        await answered.wait()

    limit = BodyLimit(app, 10, 5, error_response, budget)

    async def send_bytes(count: int) -> list[int]:
        statuses: list[int] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"0" * count, "more_body": False}

        async def send(message: Any) -> None:
            if "status" in message:
                statuses.append(message["status"])

        await limit({"type": "http", "method": "POST", "headers": []}, receive, send)
        return statuses

    first = asyncio.create_task(send_bytes(6))
    await answering.wait()
    assert budget.held == 6
    assert await send_bytes(5) == [429]
    second = asyncio.create_task(send_bytes(4))
    await asyncio.sleep(0.01)
    assert budget.held == 10
    empty = asyncio.create_task(send_bytes(0))  # `GET /health` has no body
    answered.set()
    assert [await first, await second, await empty] == [[], [], []]
    assert budget.held == 0
    assert await send_bytes(10) == []


async def test_a_client_that_leaves_gives_its_bytes_back() -> None:
    budget = ByteBudget(10)
    waits = {"type": "http.request", "body": b"0123", "more_body": True}
    await send_body(waits, {"type": "http.disconnect"}, budget=budget)
    await send_body(waits, seconds=0.01, budget=budget)
    await send_body(waits, b"0123456789", budget=budget)
    assert budget.held == 0


async def test_bodies_that_are_not_whole_when_the_server_stops() -> None:
    limit = BodyLimit(error_response(404, "nothing is here"), 10, 60, error_response)
    statuses: list[int] = []
    begun = asyncio.Event()

    async def receive() -> Any:
        if begun.is_set():
            await asyncio.Event().wait()
        begun.set()
        return {"type": "http.request", "body": b"0", "more_body": True}

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    scope = {"type": "http", "method": "POST", "headers": []}
    waiting = asyncio.create_task(limit(scope, receive, send))
    await begun.wait()
    await asyncio.sleep(0)
    limit.close()
    await waiting
    await limit(scope, receive, send)
    assert statuses == [503, 503]


async def test_other_messages_than_requests_pass() -> None:
    (message,), _, _ = await send_body({"type": "lifespan.startup"}, kind="lifespan")
    assert message == {"type": "lifespan.startup"}


@pytest.mark.parametrize("status", [401, 404, 408, 413, 422, 429, 500, 503])
def test_an_error_has_the_type_of_its_status(status: int) -> None:
    body = error_response(status, "because \ud800" + "x" * 10_000).body
    assert b'"because ?xxx' in body and len(body) < 1200
    kinds = {401: b"authentication_error", 429: b"rate_limit_error"}
    kinds |= {500: b"server_error", 503: b"server_error"}
    assert kinds.get(status, b"invalid_request_error") in body


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Bearer secret", 200),
        (b"bearer  secret ", 200),
        (b"Bearer Secret", 401),
        (b"Bearer secret2", 401),
        (b"Bearer", 401),
        (b"Basic secret", 401),
        (b"secret", 401),
        (b"Bearer \xff\xfe", 401),
        (b"", 401),
        (None, 401),
    ],
)
async def test_a_request_with_the_key_passes(header: bytes | None, status: int) -> None:
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        statuses.append(200)

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    async def receive() -> Any:
        raise AssertionError("nothing is received without the key")

    headers = [] if header is None else [(b"authorization", header)]
    guarded = KeyRequired(app, "secret", open_paths=("/health",))
    await guarded({"type": "http", "path": "/v1/models", "headers": headers}, receive, send)
    assert statuses == [status]
    await guarded({"type": "http", "path": "/health", "headers": headers}, receive, send)
    await guarded({"type": "lifespan"}, receive, send)
    assert statuses == [status, 200, 200]
