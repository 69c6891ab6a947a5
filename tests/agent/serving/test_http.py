"""What is taken of a body, message by message, and what the application behind it is given."""

import asyncio
from typing import Any

import pytest

from visreplay.agent.openai.errors import error_response
from visreplay.agent.serving.auth import KeyRequired
from visreplay.agent.serving.http import BodyLimit

Messages = list[dict[str, Any]]


async def asked(*pieces: Any, seconds: float = 5, kind: str = "http", **given: Any) -> Any:
    """What the application is given of a body in pieces, and what is sent."""
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

    limit = BodyLimit(app, 10, seconds, error_response)
    await limit({"type": kind, "method": "POST", "headers": []}, receive, send)
    return given_on, sent, left


async def test_a_body_in_pieces_is_given_on_as_one() -> None:
    for pieces in ((b"0123456789",), (b"01234", b"", b"56789"), (b"",)):
        (message,), sent, _ = await asked(*pieces)
        assert message == {"type": "http.request", "body": b"".join(pieces), "more_body": False}
        assert sent == []


async def test_no_more_is_read_than_is_taken() -> None:
    given, sent, left = await asked(b"01234", b"567890", b"x" * 100)
    assert given == [] and sent[0]["status"] == 413
    assert [message["body"] for message in left] == [b"x" * 100]


async def test_who_is_slow_or_gone_is_not_waited_for() -> None:
    waits = {"type": "http.request", "body": b"0", "more_body": True}
    given, sent, _ = await asked(waits, seconds=0.01)
    assert given == [] and sent[0]["status"] == 408
    given, sent, _ = await asked(waits, {"type": "http.disconnect"})
    assert given == sent == []


async def test_what_is_no_request_passes() -> None:
    (message,), _, _ = await asked({"type": "lifespan.startup"}, kind="lifespan")
    assert message == {"type": "lifespan.startup"}


@pytest.mark.parametrize("status", [401, 404, 408, 413, 422, 429, 500])
def test_a_refusal_says_what_kind_it_is(status: int) -> None:
    body = error_response(status, "because \ud800" + "x" * 10_000).body
    assert b'"because ?xxx' in body and len(body) < 1200
    kinds = {401: b"authentication_error", 429: b"rate_limit_error", 500: b"server_error"}
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
async def test_who_has_the_key_comes_in(header: bytes | None, status: int) -> None:
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        statuses.append(200)

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    async def receive() -> Any:
        raise AssertionError("nothing is read of who has no key")

    headers = [] if header is None else [(b"authorization", header)]
    guarded = KeyRequired(app, "secret", open_paths=("/health",))
    await guarded({"type": "http", "path": "/v1/models", "headers": headers}, receive, send)
    assert statuses == [status]
    await guarded({"type": "http", "path": "/health", "headers": headers}, receive, send)
    await guarded({"type": "lifespan"}, receive, send)
    assert statuses == [status, 200, 200]
