"""Without a key, programs of this machine are answered, and no web page."""

from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from visreplay.agent.serving.auth import KeyRequired, SameMachine, check_access

MODELS = "/v1/models"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "LOCALHOST:8000"},
        {"Host": "[::1]:8000"},
        {"Host": "127.0.0.1", "Origin": "http://localhost:3000"},
    ],
)
def test_a_request_that_names_this_machine_is_answered(
    openai_url: str, headers: dict[str, str]
) -> None:
    assert httpx.get(openai_url + MODELS, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "evil.example:localhost"},
        {"Host": "127.0.0.1@evil.example"},
        {"Host": ""},
        {"Host": "192.168.0.7"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[evil"},
        {"Origin": "http://evil.example\\@localhost"},
        {"Origin": "http://evil.example@localhost"},
        {"Origin": "http://localhost/evil"},
        {"Origin": "localhost"},
        {"Host": "localhost:0x1"},
    ],
)
def test_a_request_that_names_another_machine_is_refused(
    openai_url: str, headers: dict[str, str]
) -> None:
    response = httpx.get(openai_url + MODELS, headers=headers)
    assert response.status_code == 403
    assert "must name this machine" in response.json()["error"]["message"]


LOCAL = ("host", "localhost")
GOOD, EVIL = ("origin", "http://localhost:1"), ("origin", "http://evil.example")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([LOCAL, GOOD, ("origin", "https://[::1]")], 200),
        ([LOCAL, EVIL, GOOD], 403),
        ([LOCAL, GOOD, EVIL], 403),
        ([LOCAL, ("host", "evil.example")], 403),
        ([], 403),
    ],
)
async def test_every_host_and_origin_counts(sent: list[tuple[str, str]], status: int) -> None:
    guarded = SameMachine(PlainTextResponse("hello"), PlainTextResponse("no", 403))
    assert await _status(guarded, sent) == status


KEY = "sk-1 2"


@pytest.mark.parametrize("around", ["{}", "{}\n", " {}\r\n", "\t{} "])
async def test_blanks_around_the_key_do_not_count(around: str) -> None:
    guarded = KeyRequired(PlainTextResponse("hello"), around.format(KEY))
    assert await _status(guarded, [("authorization", f"Bearer {KEY}")]) == 200
    assert await _status(guarded, [("authorization", f"Bearer {KEY[:-1]}")]) == 401
    twice = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")]
    assert await _status(guarded, twice) == 401


@pytest.mark.parametrize("key", ["", " ", "\n", "\r\n \t"])
def test_a_key_of_blanks_alone_is_refused(key: str) -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(ValueError, match="the API key is empty"):
            check_access(host, key)
    with pytest.raises(ValueError, match="the API key is empty"):
        KeyRequired(PlainTextResponse("hello"), key)


def test_a_key_that_no_header_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        check_access("127.0.0.1", "first\nsecond")


async def _status(app: Any, headers: list[tuple[str, str]]) -> int:
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    raw = [(name.encode(), value.encode()) for name, value in headers]
    await app({"type": "http", "path": "/", "method": "GET", "headers": raw}, receive, send)
    return statuses[0]
