"""Fields of requests as real clients send them, against a server: what they change, or do not."""

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from openai import OpenAI, UnprocessableEntityError
from openai.types.chat import ChatCompletion
from openai_served import SEARCH, ZOOM, Json, data_uri, image_part, prompt

from visreplay.tools import load_image

PICTURE = load_image(SEARCH.images[0])
URI = data_uri(PICTURE)


def ask(client: OpenAI, messages: list[Json] | None = None, **fields: Any) -> ChatCompletion:
    messages = prompt() if messages is None else messages
    return client.chat.completions.create(  # type: ignore[no-any-return]
        **{"model": "policy", "messages": messages, "max_tokens": 90, **fields}
    )


def told(reply: ChatCompletion) -> tuple[str | None, int]:
    assert reply.usage
    return reply.choices[0].message.content, reply.usage.prompt_tokens


def shown(url: str = URI, **fields: Any) -> list[Json]:
    """The question about the picture, with fields of its image."""
    part = {"type": "image_url", "image_url": {"url": url, **fields}}
    return [{"role": "user", "content": [part, {"type": "text", "text": SEARCH.question}]}]


def test_nulls_and_neutral_settings_change_nothing(client: OpenAI) -> None:
    plain = told(ask(client))
    nulls = dict.fromkeys(
        ("n", "logit_bias", "temperature", "top_p", "stop", "seed", "stream_options", "tools")
    )
    of_others = dict.fromkeys(("reasoning_effort", "audio", "guided_json", "top_k", "min_p"))
    assert told(ask(client, **nulls, extra_body=of_others)) == plain
    neutral = {"top_k": -1, "repetition_penalty": 1.0, "min_p": 0.0, "ignore_eos": False}
    neutral |= {"chat_template_kwargs": {}, "prompt_cache_key": "a", "cache_control": {}}
    keys = {"prompt_cache_retention": "24h", "safety_identifier": "a", "verbosity": "medium"}
    assert told(ask(client, modalities=["text"], **keys, extra_body=neutral)) == plain


@pytest.mark.parametrize(
    ("field", "value"),
    [("min_p", 0.1), ("reasoning_effort", "low"), ("logit_bias", {"5": 1}), ("functions", [{}])],
)
def test_settings_that_would_change_something_are_named(
    client: OpenAI, field: str, value: Any
) -> None:
    with pytest.raises(UnprocessableEntityError, match=field) as caught:
        ask(client, extra_body={field: value})
    assert str(caught.value.param).startswith(field)


def test_a_tool_without_description_and_a_result_without_content(client: OpenAI) -> None:
    function = {"name": "look", "description": None, "parameters": None, "strict": None}
    plain = {"type": "function", "function": {"name": "look"}}
    tool = {"type": "function", "function": function, "cache_control": {"type": "ephemeral"}}

    def after_a_call(arguments: str | None, content: str | None) -> list[Json]:
        call = {"id": "1", "type": "function"}
        call |= {"function": {"name": "look", "arguments": arguments}}  # type: ignore[dict-item]
        turn = {"role": "assistant", "content": None, "tool_calls": [call]}
        return [*prompt(), turn, {"role": "tool", "tool_call_id": "1", "content": content}]

    expected = told(ask(client, after_a_call("{}", ""), tools=[plain]))
    for arguments in ("", " ", None, "{}"):
        for content in ("", None):
            assert told(ask(client, after_a_call(arguments, content), tools=[tool])) == expected


def test_a_refusal_is_read_as_text(client: OpenAI) -> None:
    def after(**turn: Any) -> list[Json]:
        return [*prompt(), {"role": "assistant", **turn}, {"role": "user", "content": "Why?"}]

    expected = told(ask(client, after(content="No.")))
    assert told(ask(client, after(content=None, refusal="No."))) == expected
    part = {"type": "refusal", "refusal": "No."}
    assert told(ask(client, after(content=[part]))) == expected


FORMS = {
    "upper case": URI.replace("data:image/png;base64", "DATA:IMAGE/PNG;BASE64"),
    "URL-safe": URI[:22] + URI[22:].replace("+", "-").replace("/", "_"),
    "no padding": URI.rstrip("="),
    "lines": URI[:22] + "\n".join(URI[at : at + 76] for at in range(22, len(URI), 76)),
    "percent-encoded": URI[:22] + URI[22:].replace("+", "%2B").replace("=", "%3D"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_data_uri_in_other_forms(client: OpenAI, form: str) -> None:
    assert FORMS[form] != URI or form == "no padding"
    assert told(ask(client, shown(FORMS[form]))) == told(ask(client))


def test_limits_of_an_image_are_held(client: OpenAI) -> None:
    """The picture has 64 visual tokens of 28 x 28 pixels."""
    content, tokens = told(ask(client))
    for fields in ({"detail": "auto"}, {"detail": "high"}, {"detail": "low"}, {"detail": None}):
        assert told(ask(client, shown(**fields))) == (content, tokens)
    assert told(ask(client, shown(max_pixels=10**6)))[1] == tokens
    assert told(ask(client, shown(max_pixels=36 * 28 * 28)))[1] == tokens - 64 + 36
    small = data_uri(PICTURE.resize((56, 56)))
    (enlarged,) = shown(small, min_pixels=36 * 28 * 28)
    assert told(ask(client, [enlarged]))[1] == tokens - 64 + 36
    for name, value in (("max_pixels", 9), ("min_pixels", 10**7)):
        with pytest.raises(UnprocessableEntityError, match="the policy is shown images of 3136 to"):
            ask(client, shown(**{name: value}))
    with pytest.raises(UnprocessableEntityError, match="max_patches"):
        ask(client, shown(max_patches=1))


def test_langchain_sends_marks_ids_and_what_is_null(openai_url: str, client: OpenAI) -> None:
    model = ChatOpenAI(
        base_url=f"{openai_url}/v1",
        api_key="-",
        model="policy",
        max_retries=0,
        max_tokens=90,
        extra_body={"top_k": -1, "reasoning_effort": None, "min_p": 0},
    )
    image = {**image_part(PICTURE), "uuid": "a", "cache_control": {"type": "ephemeral"}}
    words = {"type": "text", "text": SEARCH.question, "cache_control": {"type": "ephemeral"}}
    reply = model.invoke([HumanMessage([image, words])], logit_bias=None, n=None)
    assert reply.content == told(ask(client))[0]
    bound = model.bind_tools([{**ZOOM, "cache_control": {"type": "ephemeral"}}])
    assert bound.invoke([HumanMessage([image, words])]).tool_calls
