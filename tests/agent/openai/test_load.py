"""Many clients of the server at once, also clients that leave, or never read or send anything."""

import json
import random
import socket
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai_served import (
    Json,
    Steps,
    client_of,
    is_error,
    number,
    prompt,
    read_all,
    sent,
    service,
    until,
)
from served import served

from visreplay.agent.openai import streaming
from visreplay.agent.openai.routes import openai_app
from visreplay.agent.policy.encoder import ContextEncoder
from visreplay.replay_core import ModelPair, Segment

HELLO: Json = {
    "model": "policy",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 3,
}
LONG: Json = {"model": "policy", "messages": prompt(), "temperature": 2, "seed": 9, "stream": True}


@pytest.fixture
def one_slot(embedded_pair: ModelPair) -> Iterator[str]:
    """A server that runs one turn, while one request may wait."""
    with served(openai_app(service(embedded_pair, running=1, waiting=1))) as address:
        yield address


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    steps = Steps(monkeypatch)
    yield steps
    steps.let_go()


def answered(address: str) -> None:
    """Check that the server still answers."""
    response = httpx.post(f"{address}/v1/chat/completions", json=HELLO)
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] == 3


def test_each_of_eight_clients_gets_the_reply_it_would_get_alone(client: OpenAI) -> None:
    models = ("policy", "policy+replay", "base")
    calls: list[Json] = [
        {"model": models[n % 3], "messages": number(n), "stream": False} for n in range(8)
    ]

    def content(call: Json) -> Any:
        return client.chat.completions.create(**call).choices[0].message.content

    def streamed(call: Json) -> str:
        stream = client.chat.completions.create(**{**call, "stream": True})
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    alone = [content(call) for call in calls]
    assert len(set(alone)) > 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(content, calls)) == alone
        assert list(pool.map(streamed, calls)) == alone


def test_a_long_answer_holds_up_no_short_one(openai_url: str, steps: Steps) -> None:
    with ThreadPoolExecutor(1) as pool, client_of(openai_url) as client:
        long = sent(openai_url, LONG)
        until(openai_url, running=1)
        short = pool.submit(client.chat.completions.create, **HELLO)
        while not short.done() and steps.taken < 60:
            steps.allow()
            time.sleep(0.1)
        assert short.result().choices[0].finish_reason == "length"
        until(openai_url, running=1)  # which is written still
        steps.let_go()
        lines = read_all(long).split("data: ")
    assert lines[-1].startswith("[DONE]") and len(lines) > 60
    until(openai_url, running=0)


def test_a_request_that_finds_the_queue_full_is_refused(one_slot: str, steps: Steps) -> None:
    first, second = sent(one_slot, LONG), sent(one_slot, LONG)
    until(one_slot, running=1, waiting=1)
    for stream in (False, True):
        body = {**HELLO, "stream": stream}
        response = httpx.post(f"{one_slot}/v1/chat/completions", json=body)
        is_error(response, 429, "1 turns are running and 1 callers wait")
        assert response.headers["retry-after"] == "1"
    steps.let_go()
    assert [read_all(connection).count("[DONE]") for connection in (first, second)] == [1, 1]
    answered(one_slot)
    counted = httpx.get(f"{one_slot}/metrics").text
    assert 'visreplay_requests_total{model="policy",status="429"} 2.0' in counted


@pytest.mark.parametrize("stream", [True, False])
def test_the_reply_of_a_client_that_leaves_is_not_decoded_further(
    one_slot: str, steps: Steps, stream: bool
) -> None:
    connection = sent(one_slot, {**LONG, "stream": stream})
    until(one_slot, running=1)
    steps.allow(3)
    if stream:
        while b'"content": "' not in connection.recv(2**16).replace(b'"content": ""', b""):
            pass
    connection.close()
    until(one_slot, running=0)
    steps.let_go()
    answered(one_slot)
    # Three, one that had begun, and two of the answer's (its first token takes none).
    assert steps.taken <= 3 + 1 + 2
    if not stream:
        counted = httpx.get(f"{one_slot}/metrics").text
        assert 'visreplay_requests_total{model="policy",status="499"} 1.0' in counted


def test_a_client_that_leaves_the_queue_does_not_hold_it_up(one_slot: str, steps: Steps) -> None:
    first, second = sent(one_slot, LONG), sent(one_slot, LONG)
    until(one_slot, running=1, waiting=1)
    second.close()
    until(one_slot, running=1, waiting=0)
    third = sent(one_slot, {**HELLO, "stream": True})
    until(one_slot, running=1, waiting=1)
    first.close()
    until(one_slot, running=1, waiting=0)
    steps.let_go()
    assert "[DONE]" in read_all(third)
    until(one_slot, running=0)


def test_the_prefill_of_a_client_that_leaves_ends(
    one_slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, going_on = threading.Event(), threading.Event()
    encoding = ContextEncoder.encoding

    def held(self: ContextEncoder, *given: Any) -> Generator[None, None, Segment]:
        begun.set()
        assert going_on.wait(60)
        return (yield from encoding(self, *given))

    monkeypatch.setattr(ContextEncoder, "encoding", held)
    connection = sent(one_slot, LONG)
    assert begun.wait(60)
    until(one_slot, running=1)
    connection.close()
    until(one_slot, running=0)
    going_on.set()
    answered(one_slot)


def test_nothing_stays_of_clients_that_leave_at_any_moment(embedded_pair: ModelPair) -> None:
    moments = random.Random(1)
    with served(openai_app(service(embedded_pair, running=2, waiting=30))) as address:
        for _ in range(3):
            connections = [
                sent(address, {**LONG, "stream": moments.random() < 0.5, "seed": n})
                for n in range(12)
            ]
            moments.shuffle(connections)
            for connection in connections:
                time.sleep(moments.random() / 20)
                connection.close()
        until(address, running=0, waiting=0)
        answered(address)


def test_a_client_that_does_not_read_holds_up_no_other(
    embedded_pair: ModelPair, steps: Steps
) -> None:
    """Buffers are as small as can be, and what is sent is larger."""
    application = openai_app(service(embedded_pair, running=2, waiting=0))
    body = {**LONG, "logprobs": True, "top_logprobs": 20}
    with served(application, send_buffer=4096) as address, ExitStack() as stack:
        connections = [stack.enter_context(sent(address, body)) for _ in range(2)]
        until(address, running=2)
        steps.let_go()
        until(address, running=0)
        answered(address)
        for connection in connections:
            read = read_all(connection)
            assert read.count("[DONE]") == 1 and len(read) > 100_000


def test_a_stream_that_is_not_read_is_bounded(
    embedded_pair: ModelPair, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with an error; what is not read yet counts among the bytes of all clients."""
    monkeypatch.setattr(streaming, "UNREAD_BYTES", 50_000)
    application = openai_app(service(embedded_pair, running=2, waiting=0))
    with served(application, send_buffer=4096) as address, ExitStack() as stack:
        body = {**LONG, "logprobs": True, "top_logprobs": 20}
        connection = stack.enter_context(sent(address, body))
        until(address, running=1)
        steps.let_go()
        until(address, running=0)
        read = read_all(connection)
        answered(address)
    assert "[DONE]" not in read and "read it faster" in read
    assert 50_000 < len(read) < 400_000


def test_many_choices_let_others_pass(embedded_pair: ModelPair, steps: Steps) -> None:
    """A request with a choice for every place does not wait until all places are free."""
    with served(openai_app(service(embedded_pair, running=3, waiting=9))) as address:
        first = sent(address, LONG)
        until(address, running=1)
        many = sent(address, {**LONG, "n": 3})
        until(address, running=3)  # two of its choices
        with ThreadPoolExecutor(1) as pool:
            short = pool.submit(answered, address)
            until(address, running=3, waiting=1)
            first.close()
            until(address, running=3, waiting=1)  # the third choice was there before
            steps.let_go()
            short.result()
        read = read_all(many)
        assert read.count('"finish_reason": "stop"') + read.count('"finish_reason": "length"') == 3
        assert "[DONE]" in read
        until(address, running=0, waiting=0)


def test_choices_one_after_the_other_are_those_at_once(client: OpenAI) -> None:
    body: Json = {"model": "policy", "messages": prompt(), "temperature": 1.5, "n": 3, "seed": 5}

    def texts() -> list[str | None]:
        completion = client.chat.completions.create(**body)
        return [choice.message.content for choice in completion.choices]

    alone = texts()
    with ThreadPoolExecutor(12) as pool:  # which have fewer places than choices
        assert list(pool.map(lambda _: texts(), range(12))) == [alone] * 12


def test_a_client_that_sends_nothing_holds_up_no_other(one_slot: str) -> None:
    port = int(one_slot.rpartition(":")[2])
    with ExitStack() as stack:
        for n in range(25):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            if n % 2:
                idle.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: ")
            stack.enter_context(sent(one_slot, b'{"model":', Content_Length="1000"))
        answered(one_slot)
        with client_of(one_slot) as client:
            (choice,) = client.chat.completions.create(model="base", messages=prompt()).choices  # type: ignore[arg-type]
        assert choice.message.content


def test_health_and_metrics(one_slot: str) -> None:
    told = httpx.get(f"{one_slot}/health").json()
    assert told == {"status": "ok", "running": 0, "waiting": 0}
    body = {**HELLO, "model": "policy+replay", "messages": prompt()}
    usage = httpx.post(f"{one_slot}/v1/chat/completions", json=body).json()["usage"]
    counted = dict(
        line.rsplit(" ", 1)
        for line in httpx.get(f"{one_slot}/metrics").text.splitlines()
        if not line.startswith("#")
    )
    label = '{model="policy+replay"}'
    assert float(counted[f"visreplay_prompt_tokens_total{label}"]) == usage["prompt_tokens"]
    assert float(counted[f"visreplay_generated_tokens_total{label}"]) == 3
    assert float(counted[f"visreplay_replayed_visual_tokens_total{label}"]) == 64
    assert float(counted["visreplay_sessions"]) == 2 and float(counted["visreplay_cache_bytes"]) > 0
    assert json.dumps(counted).count("first_token_seconds_count") == 1
