"""No request holds the event loop: what is done at once is bounded, however much is sent.

The measure is the number of calls of functions, in Python and in C, between two turns of the loop,
and the size of the JSON that is parsed at once. Neither depends on the machine.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import httpx
import pytest
from openai_served import data_uri, image_part, prompt, service
from PIL import Image
from stoppable import Running, received, running

from visreplay.agent.openai import request_body
from visreplay.agent.openai.routes import openai_app
from visreplay.agent.serving.json_bounds import JsonBounds, JsonCounter
from visreplay.replay_core import ModelPair

MOST = 60_000
"""Calls between two turns of the loop, which take some ten milliseconds."""


class Watch:
    """Counts the calls of the server's thread in each callback of its event loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.longest = 0
        self.parsed: list[bytes] = []
        run, loads, profiled = asyncio.Handle._run, json.loads, threading.local()

        def count(_: FrameType, event: str, __: Any) -> None:
            if event in ("call", "c_call"):
                profiled.calls += 1

        def counted(handle: asyncio.Handle) -> None:
            profiled.calls = 0
            sys.setprofile(count)
            try:
                run(handle)
            finally:
                sys.setprofile(None)
                self.longest = max(self.longest, profiled.calls)

        def kept(content: Any, **options: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                self.parsed.append(content)
            return loads(content, **options)

        monkeypatch.setattr(asyncio.Handle, "_run", counted)
        monkeypatch.setattr(request_body.json, "loads", kept)


@pytest.fixture
def watched(
    embedded_pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Watch, Running]]:
    watch = Watch(monkeypatch)
    with running(openai_app(service(embedded_pair)), loop="asyncio") as server:
        yield watch, server


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "policy", "messages": prompt(), "max_tokens": 1, **fields}).encode()


def many(field: str, item: bytes, count: int) -> bytes:
    """A request in which a list of many values stands, wherever anything may."""
    values = b"[" + b",".join([item] * count) + b"]"
    if field == "tools":
        function = b'{"name":"f","parameters":{"a":' + values + b"}}"
        values = b'[{"type":"function","function":' + function + b"}]"
    elif field != "messages":
        values = b'{"a":' + values + b"}"
    return body()[:-1] + f',"{field}":'.encode() + values + b"}"


NOISE = image_part(data_uri(Image.effect_noise((1500, 1500), 90)))
ALLOWED = {
    "metadata": many("metadata", b"[]", 29_000),
    "tools": many("tools", b"[]", 29_000),
    "replay": many("replay", b"{}", 14_000),
    "messages": many("messages", b'{"role":"user","content":"a"}', 4_000),
    "media": body(messages=[{"role": "user", "content": [NOISE]}]),
    "logprobs": body(n=8, max_tokens=60, temperature=2, logprobs=True, top_logprobs=20),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_takes_few_steps_at_once(watched: tuple[Watch, Running], name: str) -> None:
    watch, server = watched
    url = f"{server.url}/v1/chat/completions"
    kind = {"Content-Type": "application/json"}
    response = httpx.post(url, content=ALLOWED[name], headers=kind, timeout=60)
    assert response.status_code in (200, 422), response.text
    assert 0 < watch.longest < MOST


@pytest.mark.parametrize("field", ["metadata", "tools", "messages", "user"])
@pytest.mark.parametrize("item", [b"[]", b"{}", b'"\\""', b"1"])
def test_what_is_not_allowed_is_not_parsed(
    watched: tuple[Watch, Running], field: str, item: bytes
) -> None:
    watch, server = watched
    for count in (100_000, 400_000):
        response = httpx.post(
            f"{server.url}/v1/chat/completions",
            content=many(field, item, count),
            headers={"Content-Type": "application/json"},
            timeout=60,
        )
        assert response.status_code == 413
        assert "JSON values" in response.json()["error"]["message"]
    assert watch.parsed == []
    assert watch.longest < MOST


def test_what_is_parsed_is_within_the_bounds(watched: tuple[Watch, Running]) -> None:
    watch, server = watched
    kind = {"Content-Type": "application/json"}
    for content in ALLOWED.values():
        httpx.post(f"{server.url}/v1/chat/completions", content=content, headers=kind, timeout=60)
    assert len(watch.parsed) >= len(ALLOWED)
    for content in watch.parsed:
        JsonCounter(JsonBounds(2 * 2**20, 30_000)).push(content)


def test_the_smallest_chunks_and_headers(watched: tuple[Watch, Running]) -> None:
    """HTTP has framing of its own, of which a client may send as much as it likes."""
    watch, server = watched
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n"
    chunked += b"Content-Type: application/json\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % each for each in body()) + b"0\r\n\r\n"
    found = received(server.connect(chunked + chunks))
    assert found.startswith(b"HTTP/1.1 200 ")
    for headers in (2_000, 50_000):
        received(server.connect(head + b"a: b\r\n" * headers + b"Connection: close\r\n\r\n"))
    assert watch.longest < MOST
