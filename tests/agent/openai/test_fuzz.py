"""Whatever is sent to the server, it answers in OpenAI's form: `make fuzz` sends far more."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis.checks
from fuzzed import Body, bodies, floods, sent, spoilt
from fuzzing import fuzzing
from hypothesis import given
from hypothesis import strategies as st
from schemathesis.schemas import BaseSchema
from served import served

from visreplay.agent.openai.response_schema import Completion, ErrorResponse
from visreplay.agent.openai.routes import ServerLimits, ServiceConfig, openai_app, served_models
from visreplay.replay_core import Method, ModelPair, embedded_config

SMALL = ServerLimits(
    body_bytes=2**20, pixels=1_000_000, frames=4, video_seconds=10, context=1024, max_new_tokens=8
)
JSON = {"Content-Type": "application/json"}
MISTAKES = (400, 404, 413, 422)


@pytest.fixture(scope="module")
def api(embedded_pair: ModelPair) -> Iterator[str]:
    """A server of the embedded pair that answers with 8 tokens at most."""
    models = served_models(embedded_pair, embedded_config(Method.TOKEN, steps=2))
    with served(openai_app(ServiceConfig(embedded_pair, models, limits=SMALL))) as url:
        yield url


@pytest.fixture(scope="module")
def client(api: str) -> Iterator[httpx.Client]:
    """To it; no answer takes a minute."""
    with httpx.Client(base_url=api, headers=JSON, timeout=60) as client:
        yield client
        # Nobody is forgotten, and what was sent before changes nothing.
        assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
        hello = {"model": "policy", "messages": [{"role": "user", "content": "Hello"}]}
        assert client.post("/v1/chat/completions", json=hello).status_code == 200


@pytest.fixture(scope="module")
def described(api: str) -> BaseSchema:
    """What the server says that it takes, and answers."""
    schemathesis.checks.load_all_checks()
    return schemathesis.openapi.from_url(f"{api}/openapi.json")


@given(st.data())
@fuzzing(100, 5000)
def test_the_api_is_as_described(described: BaseSchema, data: st.DataObject) -> None:
    """No 5xx; every status is documented, and every body of its schema: errors' are OpenAI's."""
    # Half of the requests are such as the schema allows.
    cases = [described.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
    case: schemathesis.Case = data.draw(st.one_of(cases))
    # Whether a picture can be read, say, is beyond a schema.
    beyond = [schemathesis.checks.positive_data_acceptance]
    case.call_and_validate(timeout=60, excluded_checks=beyond)


@given(bodies())
@fuzzing(250, 20_000)
def test_requests_that_are_nearly_right(client: httpx.Client, body: Body) -> None:
    check(client.post("/v1/chat/completions", content=sent(body)))


@given(
    st.binary(max_size=200) | st.builds(spoilt, bodies(), st.floats(0, 1), st.binary(max_size=3))
)
@fuzzing(40, 5000)
def test_bodies_that_are_no_json(client: httpx.Client, body: bytes) -> None:
    check(client.post("/v1/chat/completions", content=body))


@given(floods())
@fuzzing(60, 5000)
def test_bodies_that_are_large_to_parse(client: httpx.Client, body: bytes) -> None:
    check(client.post("/v1/chat/completions", content=body))


def check(response: httpx.Response) -> None:
    """It is a completion, whole or in chunks that come to their end, or a refusal."""
    if response.status_code != 200:
        assert response.status_code in MISTAKES, (response.status_code, response.text)
        assert ErrorResponse.model_validate_json(response.content).error.code == str(
            response.status_code
        )
    elif response.headers["content-type"].startswith("text/event-stream"):
        *chunks, last = [
            line.removeprefix("data: ") for line in response.text.split("\n\n") if line
        ]
        read: list[Any] = [json.loads(chunk) for chunk in chunks]
        assert last == "[DONE]", last
        assert all(chunk["object"] == "chat.completion.chunk" for chunk in read)
    else:
        Completion.model_validate_json(response.content, strict=True)
