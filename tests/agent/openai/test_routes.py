"""The OpenAI-compatible server as OpenAI's own client sees it."""

import asyncio
from typing import Any

import pytest
import torch
from chat_tools import question
from openai import (
    AsyncOpenAI,
    InternalServerError,
    NotFoundError,
    OpenAI,
    UnprocessableEntityError,
)
from openai_served import MODELS, SEARCH, USER, ZOOM, Json, number, prompt

from visreplay.agent import ReplayChatModel
from visreplay.replay_core import Method, ModelPair, ReplayConfig, embedded_config

CONFIGS = {
    "policy": ReplayConfig(Method.NONE),
    "policy+replay": embedded_config(Method.TOKEN),
    "base": ReplayConfig(Method.NONE, swap_roles=True),
}


def alone(pair: ModelPair, name: str = "policy+replay", **options: Any) -> ReplayChatModel:
    options = {"protocol": "embedded", "max_new_tokens": 96, **options}
    return ReplayChatModel(pair=pair, replay=CONFIGS[name], **options)


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [*MODELS]
    for name in MODELS:
        model = client.models.retrieve(name)
        assert (model.id, model.object, model.owned_by) == (name, "model", "visreplay")


@pytest.mark.parametrize("name", MODELS)
def test_a_reply_is_that_of_the_policy_alone(
    client: OpenAI, embedded_pair: ModelPair, name: str
) -> None:
    completion = client.chat.completions.create(model=name, messages=prompt(), tools=[ZOOM])
    (choice,) = completion.choices
    model = alone(embedded_pair, name)
    expected = model.invoke([question(model, SEARCH)])
    assert choice.message.content == (expected.content or None)
    assert len(choice.message.tool_calls or ()) == len(expected.tool_calls)
    assert choice.finish_reason == expected.response_metadata["finish_reason"]
    assert (completion.object, completion.model) == ("chat.completion", name)
    assert completion.usage and expected.usage_metadata
    assert completion.usage.prompt_tokens == expected.usage_metadata["input_tokens"]
    assert completion.usage.completion_tokens == expected.usage_metadata["output_tokens"]
    details = completion.usage.prompt_tokens_details
    assert details and details.cached_tokens is not None
    new = details.cached_tokens < completion.usage.prompt_tokens  # nobody asked this before
    assert (completion.to_dict()["replay"] is not None) == (new and name == "policy+replay")


async def test_the_async_client_gets_the_same(openai_url: str, client: OpenAI) -> None:
    options: dict[str, Any] = {"model": "policy+replay", "messages": prompt(), "tools": [ZOOM]}
    whole = client.chat.completions.create(**options).choices[0].message
    async with AsyncOpenAI(base_url=f"{openai_url}/v1", api_key="-") as other:
        found = await asyncio.gather(*(other.chat.completions.create(**options) for _ in range(3)))
        stream = await other.chat.completions.create(**options, stream=True)
        content = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert {each.choices[0].message.content for each in found} == {whole.content} == {content}


def test_too_little_memory_is_the_servers_own_error(
    client: OpenAI, embedded_pair: ModelPair
) -> None:
    layer = embedded_pair.policy.language_model.layers[-1]
    hook = layer.register_forward_hook(lambda *_: torch.empty(2**60))
    once = client.with_options(max_retries=0)
    try:
        with pytest.raises(InternalServerError, match="the server's log tells more"):
            once.chat.completions.create(model="policy", messages=number(901))
    finally:
        hook.remove()
    assert once.chat.completions.create(model="policy", messages=number(901)).choices


def test_without_tools_all_of_a_turn_is_words(client: OpenAI, embedded_pair: ModelPair) -> None:
    """Calls too, which a client that offers no tools would not know what to do with."""
    options: Any = {"model": "policy+replay", "messages": prompt()}
    (choice,) = client.chat.completions.create(**options).choices
    model = alone(embedded_pair)
    reply = model.invoke([question(model, SEARCH)])
    ids = reply.additional_kwargs["token_ids"]
    written = embedded_pair.tokenizer.decode(ids, skip_special_tokens=True)
    assert choice.message.content == written
    assert "<tool_call>" in written and choice.message.tool_calls is None
    stream = client.chat.completions.create(**options, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == written


def test_choices_and_seeds(client: OpenAI) -> None:
    options: Any = {"model": "policy", "messages": prompt(), "temperature": 1.5}
    three = client.chat.completions.create(**options, n=3, seed=5)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in three.choices]
    assert len(set(texts)) > 1
    again = client.chat.completions.create(**options, n=3, seed=5)
    assert [choice.message.content for choice in again.choices] == texts
    second = client.chat.completions.create(**options, seed=6)
    assert second.choices[0].message.content == texts[1]
    assert three.usage and second.usage
    assert three.usage.prompt_tokens == second.usage.prompt_tokens
    assert three.usage.completion_tokens > second.usage.completion_tokens


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_tokens(client: OpenAI, field: str) -> None:
    options: Any = {"model": "policy", "messages": prompt(), field: 3}
    completion = client.chat.completions.create(**options)
    assert completion.usage and completion.usage.completion_tokens == 3
    assert completion.choices[0].finish_reason == "length"
    *_, last = client.chat.completions.create(**options, stream=True)
    assert last.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stop", ["</think>", ["no such text", "</think>"]])
def test_a_stop_string_ends_a_turn_and_is_left_out(client: OpenAI, stop: Any) -> None:
    options: Any = {"model": "policy", "messages": prompt()}
    whole = client.chat.completions.create(**options).choices[0].message.content
    assert whole is not None
    (choice,) = client.chat.completions.create(**options, stop=stop).choices
    assert choice.message.content == whole[: whole.index("</think>")]
    assert choice.finish_reason == "stop"
    stream = client.chat.completions.create(**options, stop=stop, stream=True)
    content = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert content == choice.message.content


@pytest.mark.parametrize(
    "offered", [{}, {"tools": [ZOOM]}, {"stop": "yellow"}], ids=["words", "calls", "stop"]
)
def test_logprobs_are_of_the_content(client: OpenAI, offered: Any) -> None:
    """Token for token: neither the end of the turn is among them, nor a stop string, nor a call."""
    options: Any = {"model": "policy+replay", "messages": prompt(), "logprobs": True, **offered}
    completion = client.chat.completions.create(**options, top_logprobs=3)
    (choice,) = completion.choices
    assert choice.logprobs and choice.logprobs.content and completion.usage
    entries = choice.logprobs.content
    assert len(entries) < completion.usage.completion_tokens
    assert "".join(entry.token for entry in entries) == choice.message.content
    for entry in entries:
        assert entry.logprob <= 0 and entry.bytes == list(entry.token.encode())
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 3 and tops == sorted(tops, reverse=True)
        assert entry.top_logprobs[0].token == entry.token  # greedily
    (bare,) = client.chat.completions.create(**options).choices
    assert bare.logprobs and bare.logprobs.content
    assert all(entry.top_logprobs == [] for entry in bare.logprobs.content)
    assert (
        client.chat.completions.create(**{**options, "logprobs": False}).choices[0].logprobs is None
    )
    streamed = [
        entry.model_dump()
        for chunk in client.chat.completions.create(**options, top_logprobs=3, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or ()
    ]
    assert streamed == [entry.model_dump() for entry in entries]


@pytest.mark.parametrize("offered", [{}, {"tools": [ZOOM]}], ids=["words", "calls"])
def test_a_stream_is_the_whole_in_pieces(client: OpenAI, offered: Any) -> None:
    options: Any = {"model": "policy+replay", "messages": prompt(), "temperature": 1.0, **offered}
    options |= {"n": 2, "seed": 3}
    whole = client.chat.completions.create(**options)
    usage = {"include_usage": True}
    *chunks, last = client.chat.completions.create(**options, stream=True, stream_options=usage)
    assert last.choices == [] and last.usage and whole.usage
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].id != whole.id
    for choice in whole.choices:
        parts = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert parts[0].delta.role == "assistant"
        content = [part.delta.content for part in parts if part.delta.content]
        assert "".join(content) == (choice.message.content or "")
        assert len(content) > 5  # as it is written
        assert parts[-1].finish_reason == choice.finish_reason
        assert all(part.finish_reason is None for part in parts[:-1])
        calls = [call for part in parts for call in part.delta.tool_calls or ()]
        assert [
            (call.function.name, call.function.arguments) for call in calls if call.function
        ] == [
            (call.function.name, call.function.arguments)
            for call in choice.message.tool_calls or ()
            if call.type == "function"
        ]
    assert "replay" in chunks[-1].to_dict()


def test_several_answers_are_drawn_where_nothing_is_said(client: OpenAI) -> None:
    options: Any = {"model": "policy", "messages": [USER], "max_tokens": 8, "seed": 1}
    several = client.chat.completions.create(**options, n=4).choices
    assert len({choice.message.content for choice in several}) > 1
    drawn = client.chat.completions.create(**options, n=4, temperature=1.0).choices
    assert [c.message.content for c in several] == [c.message.content for c in drawn]
    alone = client.chat.completions.create(**options).choices[0]
    greedy = client.chat.completions.create(**options, temperature=0).choices[0]
    assert alone.message.content == greedy.message.content


def test_the_stream_helper_of_the_client_adds_it_up(client: OpenAI) -> None:
    options: Any = {"model": "policy+replay", "messages": prompt(), "tools": [ZOOM]}
    whole = client.chat.completions.create(**options).choices[0].message
    with client.chat.completions.stream(**options) as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.content == whole.content
    assert whole.tool_calls and final.tool_calls
    assert final.tool_calls[0].function.arguments == whole.tool_calls[0].function.arguments  # type: ignore[union-attr]


def test_replay_is_set_by_the_caller(client: OpenAI) -> None:
    create: Any = client.chat.completions.create

    def told(changes: Json, model: str = "policy+replay") -> Any:
        body = {"replay": changes}
        new = [{"role": "system", "content": "A question that is asked here alone."}, *prompt()]
        return create(model=model, messages=new, extra_body=body).to_dict()["replay"]

    usual = told({})
    assert usual["method"] == "token" and usual["new_visual_tokens"] == 64
    assert usual["kl_after"] < usual["kl_before"]
    assert all("map" not in block for block in usual["blocks"])
    assert told({}) is None  # it was read before
    assert told({"method": "state", "state_layers": 2})["method"] == "state"
    assert told({"method": "none"}) is None
    assert told({"steps": 2})["kl_after"] != usual["kl_after"]
    for changes, why in (
        ({"step": 2}, "replay has no setting 'step'; there are"),
        ({"memory_bytes": 1}, "no setting 'memory_bytes'"),
        ({"query_chunk": 1}, "no setting 'query_chunk'"),
        ({"theta": [1]}, "no setting 'theta'"),
        ({"steps": 101}, "replay.steps is 101, but may be 100 at most"),
        ({"steps": -1}, "steps is -1"),
        ({"learning_rate": 1e300}, "replay.learning_rate is 1e"),
        ({"steps": "many"}, "replay.steps: "),
        ({"method": "other"}, "replay.method: "),
        ({"state_layers": 7, "method": "state"}, "the policy has 4 decoder layers"),
        ({"threshold": -1}, "replay.threshold: "),
    ):
        with pytest.raises(UnprocessableEntityError, match=why):
            told(changes)
    with pytest.raises(UnprocessableEntityError, match="model 'policy' has no replay"):
        told({"steps": 2}, "policy")


def test_errors_are_such_as_the_client_knows(client: OpenAI) -> None:
    create: Any = client.chat.completions.create
    with pytest.raises(NotFoundError, match="there is no model 'gpt-5'") as missing:
        create(model="gpt-5", messages=prompt())
    assert missing.value.type == "invalid_request_error" and missing.value.param == "model"
    with pytest.raises(NotFoundError):
        client.models.retrieve("gpt-5")
    with pytest.raises(UnprocessableEntityError, match="temperature") as wrong:
        create(model="policy", messages=prompt(), temperature=3)
    assert wrong.value.param == "temperature"
    with pytest.raises(UnprocessableEntityError):
        create(model="policy", messages=prompt(), stream=True, max_tokens=97)


def test_nearly_no_temperature_is_greedy(client: OpenAI) -> None:
    """Logits that are divided by it would overflow, and end what others write as well."""
    create: Any = client.chat.completions.create
    told = [
        create(model="policy", messages=prompt(), temperature=temperature)
        .choices[0]
        .message.content
        for temperature in (0, 1e-300, 1e-40, 1e-6)
    ]
    assert len(set(told)) == 1
