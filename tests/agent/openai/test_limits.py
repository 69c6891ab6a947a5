"""Requests beyond the limits are refused in OpenAI's form, and the next is answered."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai_served import (
    USER,
    Json,
    client_of,
    data_uri,
    is_error,
    post,
    prompt,
    read_all,
    sent,
    service,
    shows,
)
from PIL import Image
from served import served

from visreplay.agent.openai.request_schema import ChatRequest
from visreplay.agent.openai.routes import openai_app
from visreplay.agent.openai.service import ChatService
from visreplay.replay_core import ModelPair

TOOL: Json = {"type": "function", "function": {"name": "f"}}
RED = data_uri(Image.new("RGB", (40, 30), "red"))


# Bodies


def test_a_body_that_is_too_large(limited: str) -> None:
    too_large = b" " * 400_001
    is_error(post(limited, too_large), 413, "the body has more than 400,000 bytes")

    def pieces() -> Iterator[bytes]:
        yield from [b" " * 50_000] * 9

    response = httpx.post(limited.partition("#")[0], content=pieces())
    assert "content-length" not in response.request.headers
    is_error(response, 413, "the body has more than 400,000 bytes")


def test_a_body_that_does_not_come(limited: str) -> None:
    connection = sent(limited.partition("/v1")[0], b'{"model":', Content_Length="20")
    told = read_all(connection, b"}}")
    assert told.startswith("HTTP/1.1 408 ")
    assert json.loads(told.partition("\r\n\r\n")[2])["error"]["code"] == "408"


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


BROKEN = {
    "": (422, "the body: no JSON: Expecting value"),
    "{": (422, "the body: no JSON: Expecting property name"),
    "[]": (422, "the body: Input should be a valid dictionary"),
    "null": (422, "the body"),
    "\xff": (400, "error parsing the body"),
    nested(90): (422, "model: Field required"),
    nested(900): (400, "nested in more than 100 levels"),
    nested(10_000): (400, "nested in more than 100 levels"),
    '{"messages":' + "[" * 900 + "]" * 900 + "}": (400, "nested in more than 100 levels"),
    '{"seed":' + "1" * 5000 + "}": (400, "a number in the body has more than 400 characters"),
    '{"seed":-1e' + "1" * 5000 + "}": (400, "a number in the body has more than 400 characters"),
    '{"seed":' + "1" * 300 + "}": (422, "model: Field required"),
    json.dumps({f"k{n}": 1 for n in range(10_000)}): (422, "an object has 10000 fields"),
    json.dumps({f"k{n}": 1 for n in range(20_000)}): (413, "more than 30,000 JSON values"),
    json.dumps({"metadata": [[]] * 40_000}): (413, "more than 30,000 JSON values"),
    json.dumps({"x" * 100_000: 1, "model": "policy", "messages": [USER]}): (422, "xxx"),
    '{"\\ud800":1}': (422, "unable to parse raw data"),
    '{"model":"policy","messages":[{"role":"\\ud800"}]}': (422, "messages.0: Input tag"),
    '{"model":"policy","messages":[{"role":"user","content":"\\ud800"}]}': (
        422,
        "messages.0.user",
    ),
    json.dumps({"model": "policy"}).encode("utf-16").decode("latin-1"): (400, "no JSON in UTF-8"),
    json.dumps({"model": "policy"}).encode("utf-32-le").decode("latin-1"): (
        400,
        "no JSON in UTF-8",
    ),
}


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_a_body_that_makes_no_sense(limited: str, body: str) -> None:
    is_error(post(limited, body.encode("latin-1")), *BROKEN[body])


def test_json_has_fewer_bytes_than_media(embedded_pair: ModelPair) -> None:
    """A picture in base64 may be large, and the same characters as text may not."""
    with served(openai_app(service(embedded_pair, json_bytes=20_000))) as url:
        url = f"{url}/v1/chat/completions"
        noise = data_uri(Image.effect_noise((160, 160), 90))
        assert len(noise) > 25_000
        shown = post(url, {**shows(noise), "max_tokens": 1})
        assert shown.status_code == 200, shown.text
        for text in (noise.removeprefix("data:"), noise[:5] + "\n" * 25_000, "\u20ac" * 5000):
            is_error(post(url, {"user": text}), 413, "more than 20,000 bytes of JSON")


def test_arguments_of_calls_are_json_too(embedded_pair: ModelPair) -> None:
    with served(openai_app(service(embedded_pair, json_values=200))) as url:
        url = f"{url}/v1/chat/completions"

        def asked(*arguments: str) -> httpx.Response:
            calls = [
                {"id": str(n), "type": "function", "function": {"name": "f", "arguments": each}}
                for n, each in enumerate(arguments)
            ]
            results = [
                {"role": "tool", "tool_call_id": str(n), "content": "x"} for n in range(len(calls))
            ]
            turn = {"role": "assistant", "tool_calls": calls}
            return post(url, {"messages": [USER, turn, *results], "max_tokens": 1})

        many = json.dumps({"a": [[]] * 150})
        assert asked("{}", "}", "[[", '{"a": 1}}').status_code == 200
        is_error(asked(json.dumps({"a": [[]] * 300})), 422, "more than 200 JSON values together")
        is_error(asked(many, many), 422, "more than 200 JSON values together")
        is_error(asked("[" * 150 + "]" * 150 + many), 422, "more than 200 JSON values together")


def test_a_body_must_be_json_by_its_type(limited: str) -> None:
    """So that no web page can send one without asking first."""
    body = json.dumps({"model": "policy", "messages": [USER]})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = httpx.post(
            limited.partition("#")[0], content=body, headers={"Content-Type": kind}
        )
        is_error(response, 422, "the body")


WRONG: dict[str, Any] = {
    "model": [1, None, {}],
    "messages": [None, {}, [], "Hello", [1] * 20_000, [USER] * 4097, [{"role": "user"}]],
    "n": [0, 129, True, "1", 1.5, 3],
    "max_tokens": [0, -1, "2", 2.5, 9],
    "max_completion_tokens": [0, 9, 10**30],
    "temperature": [-1, 2.1, "1", float("nan"), float("inf")],
    "top_p": [0, 1.1, float("nan")],
    "top_k": [-2, 1.5, True, 2**40],
    "repetition_penalty": [0, -1, 101, float("nan"), "1"],
    "seed": [-1, 2**63, "1"],
    "stop": ["", [""], ["a"] * 17, "a" * 257, 1],
    "logprobs": [1, "yes"],
    "top_logprobs": [-1, 21],
    "stream_options": [1, {"other": 1}],
    "tools": [1, [1], [TOOL] * 129, [{**TOOL, "type": "code"}], [{"type": "function"}]],
    "tool_choice": ["always", "required", {"type": "function", "function": {"name": "g"}}],
    "response_format": [{"type": "json_object"}],
    "frequency_penalty": [0.5],
    "presence_penalty": [True],
    "metadata": [1],
    "replay": [1, {"steps": 1}],
    "functions": [[{"name": "f"}], {}],
    "best_of": [2],
}


@pytest.mark.parametrize("field", WRONG)
def test_values_that_make_no_sense(limited: str, field: str) -> None:
    for value in WRONG[field]:
        is_error(post(limited, {field: value}, stream=True), 422, "")


CONTENT: list[Any] = [
    1,
    [1] * 20_000,
    [{"type": "text", "text": "a"}] * 1025,
    [{"type": "text"}],
    [{"type": "audio"}],
    [{"type": "image_url"}],
    [{"type": "image_url", "image_url": RED}],
    [{"type": "image_url", "image_url": {}}],
    [{"type": "video_url", "video_url": {"url": 1}}],
    [{"text": "a"}],
]


@pytest.mark.parametrize("content", CONTENT, ids=range(len(CONTENT)))
def test_content_that_makes_no_sense(limited: str, content: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asks = {"role": "assistant", "tool_calls": [call]}
    for last in ({"role": "user"}, {"role": "tool", "tool_call_id": "1"}):
        messages = [USER, asks, {**last, "content": content}]
        is_error(post(limited, {"messages": messages}), 422, "messages.2.")


def test_an_error_says_what_was_meant(limited: str) -> None:
    response = post(limited, shows({"type": "image_url", "image_url": {}}))
    is_error(response, 422, "messages.0.user.content.0.image_url.image_url.url: Field required")
    assert response.json()["error"]["param"] == "messages.0.user.content.0.image_url.image_url.url"


@pytest.mark.parametrize("depth", [240, 900, 10_000])
def test_nested_json_where_anything_may_stand(limited: str, depth: int) -> None:
    """It is read, or refused, but ends nothing."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": nested(depth)}}
    after = [
        {"role": "assistant", "tool_calls": [call]},
        {**USER, "role": "tool", "tool_call_id": "1"},
    ]
    response = post(limited, {"messages": [USER, *after]})
    assert response.status_code == 422, response.text
    start = '{"model": "policy+replay", "messages": [{"role": "user", "content": "Hello"}], '
    for rest in (
        '"tools": [{"type": "function", "function": {"name": "f", "parameters": %s}}]}',
        '"metadata": %s}',
        '"replay": {"steps": %s}}',
    ):
        response = post(limited, start + rest % nested(depth))
        assert response.status_code in (200, 400, 422), response.text
        assert response.status_code == 200 or set(response.json()) == {"error"}


async def test_a_request_is_dropped_when_it_is_converted(embedded_pair: ModelPair) -> None:
    body = {"model": "policy", "metadata": {"a": 1}, "tools": [TOOL], **shows(RED)}
    request = ChatRequest.model_validate(body)
    chat = ChatService(service(embedded_pair))
    async with chat.open(), chat.engine.slot() as slot:
        _, events = await chat.begin(request, slot, chat.budget())
        assert not (request.messages or request.tools or request.metadata)
        assert [event async for event in events]


# Tokens


def test_too_many_tokens(limited: str) -> None:
    is_error(
        post(limited, {"max_tokens": 9}), 422, "max_completion_tokens is 9; at most 8 are allowed"
    )
    for words, told in (("one " * 1000, "room for 600"), ("one " * 50_000, "16 each")):
        messages = [{"role": "user", "content": words}]
        is_error(post(limited, {"messages": messages}), 422, told)
        is_error(post(limited, {"messages": messages}, stream=True), 422, told)
    is_error(post(limited, {"n": 3}), 422, "3 turns were requested, but 1 to 2 can run")
    response = post(limited, {"max_tokens": 8, "temperature": 1e-300, "top_p": 1e-300})
    assert response.json()["usage"]["completion_tokens"] <= 8


# Paths


def test_paths_and_methods(limited: str) -> None:
    address = limited.partition("/v1")[0]
    is_error(httpx.get(f"{address}/v1/nothing"), 404, "Not Found")
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        response = httpx.request(method, f"{address}/v1/chat/completions")
        is_error(response, 405, "Method Not Allowed")
        assert response.headers["allow"] == "POST"
    head = httpx.head(f"{address}/health")
    assert head.status_code == 405 and not head.content
    is_error(httpx.get(f"{address}/v1/models/gpt-5"), 404, "there is no model 'gpt-5'")
    is_error(post(limited, {"model": "gpt-5"}), 404, "there are policy, policy+replay, base")
    is_error(
        post(limited, '{"model": "\\ud800", "messages": [{"role": "user", "content": "a"}]}'),
        404,
        "ud800",
    )


def test_a_key(embedded_pair: ModelPair) -> None:
    with served(openai_app(service(embedded_pair), "secret")) as address:
        for headers in ({}, {"Authorization": "Bearer Secret"}, {"Authorization": "Basic secret"}):
            for path in ("/v1/models", "/metrics", "/nothing"):
                response = httpx.get(address + path, headers=headers)
                is_error(response, 401, "Authorization: Bearer <key> is missing or wrong")
                assert response.headers["www-authenticate"] == "Bearer"
        body = b" " * (21 * 2**20)  # is not read first
        is_error(httpx.post(f"{address}/v1/chat/completions", content=body), 401, "")
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
        with client_of(address, api_key="secret") as client:
            create: Any = client.chat.completions.create
            assert create(model="base", messages=prompt(), max_tokens=2).choices
