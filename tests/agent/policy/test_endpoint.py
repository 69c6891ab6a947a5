"""What may go wrong at an endpoint: each is an error with URL, status and way out."""

import re
import socket
import traceback
from typing import Any

import pytest
from endpoints import Answer, Json, completion, little_endpoint, refusal

from visreplay.agent.messages import Message, text, user
from visreplay.agent.policy import endpoint as endpoint_module
from visreplay.agent.policy.endpoint import KEY_VARIABLE, Endpoint, EndpointError
from visreplay.agent.policy.remote_policy import RemotePolicy
from visreplay.replay_core import ConfigError
from visreplay.tools import ImageStore

HELLO: list[Message] = [user(text("Hello"))]
GOOD = Answer(completion("Hello."))
SECRET = "sk-this-is-a-secret"


def policy_at(url: str, **options: Any) -> RemotePolicy:
    return RemotePolicy(Endpoint(url, **{"retries": 0, **options}), "some-model", ImageStore())


def error_of(*answers: Answer, retries: int = 0, timeout: float = 20.0) -> str:
    """The error that a turn ends in, which names the URL."""
    with little_endpoint(*answers) as server:
        policy = policy_at(server.url, retries=retries, timeout=timeout)
        with pytest.raises(EndpointError) as caught:
            policy.act(HELLO)
        policy.close()
        assert f"{server.url}/chat/completions" in str(caught.value)
        return str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refusal(401, "no key"), rf"status 401 \(no key\): put its key in .*{KEY_VARIABLE}"),
        (refusal(403, "not for you"), rf"status 403 .*{KEY_VARIABLE}"),
        (refusal(404, "no such model"), r"status 404 \(no such model\): is the URL .*--policy"),
        (refusal(400, "top_k is unknown"), r"status 400 \(top_k is unknown\): change or leave out"),
        (refusal(422, "stop is unknown"), r"status 422 \(stop is unknown\): change or leave out"),
        (refusal(413, "too large"), r"status 413 .*--max-images, --max-pixels"),
        (refusal(429, "slow down"), r"status 429 \(slow down\): 1 try; wait.*--retry-errors"),
        (refusal(500, "it broke"), r"status 500 \(it broke\): .*see its log.*--retry-errors"),
        (Answer("<html>busy</html>", 503), r"status 503 \(<html>busy</html>\).*--retry-errors"),
        (Answer("", 502), r"status 502 \(Bad Gateway\)"),
        (Answer({"detail": "not there"}, 404), r"status 404 \(not there\)"),
        (refusal(500, "x" * 9000), r"status 500 \(x{300}\.\.\.\)"),
    ],
)
def test_a_status_is_told_with_the_way_out(answer: Answer, message: str) -> None:
    assert re.search(message, error_of(answer))


OTHER_FORM = r"status 200, but not in OpenAI's form .*: is it an OpenAI-compatible endpoint"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<html>Welcome</html>", OTHER_FORM),
        ("", OTHER_FORM),
        ({}, r"OpenAI's form \(choices: Field required\)"),
        ({"choices": []}, r"OpenAI's form \(choices: "),
        ({"choices": [{"index": 0}]}, r"\(choices.0.message: Field required\)"),
        ({"choices": 7}, OTHER_FORM),
        ({"error": {"message": "no"}}, OTHER_FORM),
        (completion(["a", "list"]), r"\(choices.0.message.content: "),
        ('{"choices": [{"message": {"content": "\\ud800"}, "finish_reason": "stop"}]}', OTHER_FORM),
        (completion(None), r"without content \(finish_reason 'stop'\).*--max-new-tokens"),
        (completion("", "length"), r"without content \(finish_reason 'length'\): a model that rea"),
        (completion("Half of", "content_filter"), "content filter: leave the sample out"),
        (completion(None, "content_filter"), "content filter"),
        (completion(None, message={"refusal": "I will not."}), r"declined \(I will not.\)"),
        (
            completion(None, "tool_calls", {"tool_calls": [{"id": "a"}]}),
            "took the tool calls out of the text.*serve the model without a parser",
        ),
        (completion("Hello", None), "finish_reason None, which is neither 'stop' nor 'length'"),
        (completion("Hello", "eaten"), "finish_reason 'eaten'"),
    ],
)
def test_an_answer_that_is_no_turn_is_never_taken_for_one(body: Json | str, message: str) -> None:
    assert re.search(message, error_of(Answer(body)), re.DOTALL)


def test_a_late_answer() -> None:
    message = error_of(Answer(completion("Hello."), delay=2.0), timeout=0.3)
    assert "gave no answer within 0.3 s (1 try): is the server overloaded?" in message


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(EndpointError) as caught:
        policy_at(f"http://127.0.0.1:{port}/v1", retries=1).act(HELLO)
    message = str(caught.value)
    assert f"http://127.0.0.1:{port}/v1/chat/completions cannot be reached" in message
    assert "refused" in message and "2 tries" in message and "is the server running" in message


def test_a_server_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        policy = policy_at(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", timeout=0.3)
        with pytest.raises(EndpointError, match=r"gave no answer within 0\.3 s"):
            policy.act(HELLO)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(status: int) -> None:
    with little_endpoint(refusal(status, "later"), refusal(status, "later"), GOOD) as server:
        assert policy_at(server.url, retries=2).act(HELLO).text == "Hello."
        assert len(server.requests) == 3
        with pytest.raises(EndpointError, match="2 tries"):
            again = [refusal(429, "later", **{"Retry-After": "0.01"})]
            server.answers[:] = again
            policy_at(server.url, retries=1).act(HELLO)
        assert len(server.requests) == 5, "no more than that"


def test_the_limit_of_tokens_has_the_name_that_the_endpoint_knows() -> None:
    hint = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    with little_endpoint(refusal(400, hint), GOOD) as server:
        policy = policy_at(server.url)
        assert [policy.act(HELLO).text for _ in range(2)] == ["Hello."] * 2
        old, new, later = server.requests
    assert old["max_tokens"] == new["max_completion_tokens"] == later["max_completion_tokens"]
    assert "max_completion_tokens" not in old and "max_tokens" not in new


def test_the_key_is_sent_and_never_printed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, f" {SECRET}\n")
    monkeypatch.setenv("OPENAI_API_KEY", "the key of another service")
    # Servers do quote the key that they refuse; here it ends where the quotation is cut as well.
    refused = [refusal(401, f"{'x' * n}AUTHORIZATION is wrong") for n in (0, 285)]
    with little_endpoint(GOOD, *refused, models=refused[0]) as server, caplog.at_level("DEBUG"):
        policy = policy_at(server.url)
        assert policy.act(HELLO).text == "Hello."
        for _ in refused:
            with pytest.raises(EndpointError, match="status 401") as caught:
                policy.act(HELLO)
            assert f"put a key that it accepts for this model in {KEY_VARIABLE}" in str(
                caught.value
            )
            printed = "".join(traceback.format_exception(caught.value))
            assert SECRET[:8] not in printed and SECRET[:8] not in repr(vars(policy))
        with pytest.raises(EndpointError) as caught:
            policy.endpoint.models()
        assert SECRET not in str(caught.value) and "Bearer *** is wrong" in str(caught.value)
        assert server.keys == [f"Bearer {SECRET}"] * 4
    assert SECRET not in caplog.text


def test_without_a_key_no_other_service_s_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with little_endpoint() as server:
        policy_at(server.url).act(HELLO)
        assert server.keys == ["Bearer none"]


@pytest.mark.parametrize(
    ("key", "message"), [("", "is empty"), (" \n", "is empty"), ("a\nb", "no header can hold")]
)
def test_a_key_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch, key: str, message: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(ConfigError, match=f"{KEY_VARIABLE} .*{message}"):
        Endpoint("http://127.0.0.1:8000/v1")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "must be of http"),
        ("ftp://host/v1", "must be of http"),
        ("http:///v1", "must be of http"),
        ("http://host:port/v1", "must be of http"),
        ("http://[::1/v1", "must be of http"),
        ("http://host/v1?api-version=1", "a query or a fragment after 'http://host/v1'"),
        ("http://host/v1#part", "a query or a fragment"),
        (f"https://me:{SECRET}@host/v1", f"leave them out, and put the key in {KEY_VARIABLE}"),
        (f"me:{SECRET}@host", f"leave them out, and put the key in {KEY_VARIABLE}"),
        (f"http://host/v1?api-key={SECRET}", f"put a key in {KEY_VARIABLE}"),
        (f"http://host/v1#{SECRET}", f"put a key in {KEY_VARIABLE}"),
    ],
)
def test_an_address_that_cannot_be_used(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Endpoint(url)
    assert SECRET not in str(caught.value)


def test_an_address_may_end_in_a_slash() -> None:
    endpoint = Endpoint("https://api.example.com/v1/")
    assert (endpoint.url, endpoint.host) == ("https://api.example.com/v1", "api.example.com")
    assert endpoint.named("gpt") == "gpt at api.example.com"


def test_a_client_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs openai: pip install 'visreplay\[remote\]'"):
        Endpoint("http://127.0.0.1:8000/v1")
