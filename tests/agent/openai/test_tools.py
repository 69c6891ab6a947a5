"""Tools, pictures that tools give, and clips, as OpenAI's own client sees them."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai_served import GAME, SEARCH, ZOOM, Json, answer_in, data_uri, prompt, zoomed
from shared import write_clip

from visreplay.agent.protocols.tool_schemas import signature
from visreplay.replay_core import ModelPair
from visreplay.tasks.types import Sample, Split

FRAMES = signature("sample_frames", "Look at two frames.", {"around": {"type": "number"}})


def turn(client: OpenAI, messages: list[Any], stream: bool = False, **options: Any) -> Json:
    """The message of a completion as clients send it back, with its usage."""
    options = {"model": "policy+replay", "messages": messages, "tools": [ZOOM, FRAMES], **options}
    if not stream:
        completion = client.chat.completions.create(**options)
        return completion.choices[0].message.to_dict() | {"usage": completion.usage}
    # The client's own helper adds the chunks up.
    options["stream_options"] = {"include_usage": True}
    with client.chat.completions.stream(**options) as events:
        final = events.get_final_completion()
    return final.choices[0].message.to_dict() | {"usage": final.usage}


def played(client: OpenAI, pair: ModelPair, sample: Sample, stream: bool = False) -> list[Any]:
    """A whole game: a question, looks at the picture, and the answer."""
    messages: list[Any] = prompt(sample)
    for _ in range(4):
        message = turn(client, messages, stream)
        messages.append(message)
        if not message.get("tool_calls"):
            return messages
        for call in message["tool_calls"]:
            assert call["type"] == "function" and call["function"]["name"] == "zoom"
            shown = [zoomed(pair, call["function"]["arguments"], sample)]
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": shown})
        message.pop("parsed", None)
        known.append(message.pop("usage"))
    raise AssertionError("there is no answer")


known: list[Any] = []


@pytest.mark.parametrize("stream", [False, True])
def test_a_game_of_tools_and_pictures(
    client: OpenAI, embedded_pair: ModelPair, stream: bool
) -> None:
    right = 0
    for n in range(4):
        sample = GAME.sample(Split.TUNING + 20 + 4 * stream + n)  # which nobody has seen
        known.clear()
        *_, call, look, last = played(client, embedded_pair, sample, stream)
        assert isinstance(json.loads(call["tool_calls"][0]["function"]["arguments"]), dict)
        assert look["content"][0]["type"] == "image_url"
        first, second = known[0], last["usage"]
        # Of the first turn, nothing is read again: neither what was asked nor what was written.
        assert second.prompt_tokens_details.cached_tokens == first.total_tokens
        assert second.prompt_tokens - first.total_tokens < 60
        right += GAME.is_right(sample, answer_in(last["content"]))
    assert right >= 3


def test_what_was_edited_is_read_again(client: OpenAI, embedded_pair: ModelPair) -> None:
    *before, call, look, _ = played(client, embedded_pair, SEARCH)
    edited = {**call, "content": "<think>blue88</think>"}
    for message in (edited, {**call, "content": None}):
        again = turn(client, [*before, message, look])
        cached = again["usage"].prompt_tokens_details.cached_tokens
        assert cached == known[0].prompt_tokens
    # Ids are the client's to change; what was said is the same.
    renamed = [{**call["tool_calls"][0], "id": "other"}]
    messages = [*before, {**call, "tool_calls": renamed}, {**look, "tool_call_id": "other"}]
    cached = turn(client, messages)["usage"].prompt_tokens_details.cached_tokens
    assert cached > known[0].total_tokens


def test_calls_are_forced_or_forbidden(client: OpenAI) -> None:
    def call(choice: Any) -> Json:
        message = turn(client, prompt(), tool_choice=choice)
        (call,) = message["tool_calls"]
        return dict(call["function"])

    assert call("required")["name"] == "zoom"
    named = {"type": "function", "function": {"name": "zoom"}}
    assert isinstance(json.loads(call(named)["arguments"]), dict)
    free = turn(client, prompt(), tool_choice="auto")
    assert free["tool_calls"]
    words = turn(client, prompt(), tool_choice="none")
    assert "tool_calls" not in words and "<tool_call>" in words["content"]
    cut = turn(client, prompt(), tool_choice=named, max_tokens=3)
    assert "tool_calls" not in cut and cut["content"].startswith('<tool_call>{"name": "zoom"')


def test_a_call_that_was_not_offered_is_text_and_its_tokens_are_found_again(client: OpenAI) -> None:
    messages: list[Any] = prompt(GAME.sample(Split.TUNING + 60))
    first = client.chat.completions.create(model="policy+replay", messages=messages)
    reply = first.choices[0].message
    assert "<tool_call>" in (reply.content or "") and not reply.tool_calls
    messages += [reply.to_dict(), {"role": "user", "content": "And?"}]
    second = client.chat.completions.create(model="policy+replay", messages=messages)
    assert first.usage and second.usage and second.usage.prompt_tokens_details
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens


def test_one_call_a_turn_if_so_wanted(client: OpenAI) -> None:
    messages = prompt()
    several = turn(client, messages)
    one = turn(client, messages, parallel_tool_calls=False)
    function = one["tool_calls"][0]["function"]
    assert function == several["tool_calls"][0]["function"]
    assert (
        one["usage"].completion_tokens == several["usage"].completion_tokens - 1
    )  # the turn's end


def test_results_go_in_in_the_order_of_the_calls(client: OpenAI, embedded_pair: ModelPair) -> None:
    *before, call, _, _ = played(client, embedded_pair, SEARCH)
    ids = ("a", "b")
    function = call["tool_calls"][0]["function"]
    calls = [{"id": name, "type": "function", "function": function} for name in ids]
    asks = {"role": "assistant", "content": call["content"], "tool_calls": calls}
    results = [
        {"role": "tool", "tool_call_id": name, "content": f"This is {name}."} for name in ids
    ]
    told = [
        turn(client, [*before, asks, *order], logprobs=True)["content"]
        for order in (results, results[::-1])
    ]
    assert told[0] == told[1]


def test_a_clip_as_a_data_uri(client: OpenAI, tmp_path: Path) -> None:
    content = write_clip(tmp_path / "clip.mp4", [20] * 20 + [220] * 20).read_bytes()
    part = {"type": "video_url", "video_url": {"url": data_uri(content, "video/mp4")}}
    text = {"type": "text", "text": "What is there?"}
    messages: list[Any] = [{"role": "user", "content": [part, text]}]
    completion = client.chat.completions.create(model="policy+replay", messages=messages)
    assert completion.choices[0].message.content is not None
    replay = completion.to_dict()["replay"]
    assert [block["kind"] for block in replay["blocks"]] == ["video"]
