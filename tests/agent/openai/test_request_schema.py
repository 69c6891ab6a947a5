"""Fields of requests that say nothing are let pass; what would change something is refused."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from visreplay.agent.openai import request_schema as wire
from visreplay.agent.openai.request_objects import NeutralSettings

Json = dict[str, Any]

IMAGE: Json = {"type": "image_url", "image_url": {"url": "data:,"}}
TOOL: Json = {"type": "function", "function": {"name": "look"}}
BODY: Json = {"model": "policy", "messages": [{"role": "user", "content": "Hello"}]}


def parsed(**fields: Any) -> wire.ChatRequest:
    return wire.ChatRequest.model_validate({**BODY, **fields})


def refused(field: str, **fields: Any) -> str:
    """Check that a field is refused by its name; gives the reason."""
    with pytest.raises(ValidationError) as caught:
        parsed(**fields)
    reasons = [error["msg"] for error in caught.value.errors() if field in map(str, error["loc"])]
    assert reasons, caught.value.errors()
    return reasons[0]


OBJECTS: list[tuple[type[BaseModel], Json]] = [
    (wire.ChatRequest, BODY),
    (wire.TextPart, {"type": "text", "text": "a"}),
    (wire.ImagePart, IMAGE),
    (wire.ImageURL, {"url": "data:,"}),
    (wire.VideoPart, {"type": "video_url", "video_url": {"url": "data:,"}}),
    (wire.VideoURL, {"url": "data:,"}),
    (wire.SystemMessage, {"role": "system", "content": "a"}),
    (wire.UserMessage, {"role": "user", "content": "a"}),
    (wire.AssistantMessage, {"role": "assistant"}),
    (wire.ToolMessage, {"role": "tool", "tool_call_id": "1"}),
    (wire.Call, {"id": "1", "function": {"name": "look"}}),
    (wire.Function, {"name": "look"}),
    (wire.Tool, TOOL),
    (wire.ToolFunction, {"name": "look"}),
    (wire.StreamOptions, {}),
    (wire.ResponseFormat, {"type": "text"}),
]


@pytest.mark.parametrize(("model", "least"), OBJECTS, ids=[m.__name__ for m, _ in OBJECTS])
def test_null_is_a_field_that_was_not_given(model: type[BaseModel], least: Json) -> None:
    nothing = {name: None for name in (*model.model_fields, "reasoning_effort", "made_up")}
    assert model.model_validate({**nothing, **least}) == model.model_validate(least)
    for name, field in model.model_fields.items():
        if field.is_required():
            with pytest.raises(ValidationError, match=name):
                model.model_validate({**least, name: None})


@pytest.mark.parametrize(("model", "least"), OBJECTS, ids=[m.__name__ for m, _ in OBJECTS])
def test_the_description_says_where_null_is_allowed(model: type[BaseModel], least: Json) -> None:
    schema = model.model_json_schema()
    for name, field in schema["properties"].items():
        nullable = {"type": "null"} in field.get("anyOf", ()) or field.get("type") == "null"
        assert nullable is (name not in schema.get("required", ())), name
    assert schema.get("additionalProperties", {"type": "null"}) == {"type": "null"}


@pytest.mark.parametrize(
    "setting",
    [
        {"prompt_cache_key": "a"},
        {"prompt_cache_retention": "24h"},
        {"prompt_cache_options": {"mode": "explicit"}},
        {"safety_identifier": "a"},
        {"user": "a", "store": True, "service_tier": "auto", "metadata": {"a": "b"}},
        {"top_k": -1},
        {"repetition_penalty": 1.0},
        {"min_p": 0.0},
        {"min_p": 0},
        {"length_penalty": 1.0},
        {"presence_penalty": 0.0, "frequency_penalty": -0.0},
        {"logit_bias": {}},
        {"modalities": ["text"]},
        {"verbosity": "medium"},
        {"ignore_eos": False, "skip_special_tokens": True},
        {"chat_template_kwargs": {}, "stop_token_ids": [], "bad_words": []},
        {"functions": []},
        {"logprobs": False, "top_logprobs": 0},
        {"cache_control": {"type": "ephemeral"}},
    ],
)
def test_a_setting_that_changes_nothing_passes(setting: Json) -> None:
    plain, request = parsed(), parsed(**setting)
    assert request.sampling.filled(plain.sampling).top_p is None
    assert (request.stops, request.new_tokens, request.kept_logprobs) == ([], None, None)
    assert request.signatures == []


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "min_p": [0.1, 1, False, "0", float("nan"), []],
        "min_tokens": [1, -1],
        "length_penalty": [0.5, True, 0],
        "best_of": [2, True],
        "logit_bias": [{"1": 5}, [], 1],
        "modalities": [["audio"], ["text", "audio"], "text"],
        "verbosity": ["low", 1],
        "reasoning_effort": ["low", "none"],
        "ignore_eos": [True, 0, "false"],
        "skip_special_tokens": [False, 1],
        "add_generation_prompt": [False],
        "stop_token_ids": [[1]],
        "chat_template_kwargs": [{"enable_thinking": False}],
        "functions": [[{"name": "f"}]],
        "function_call": ["auto"],
        "guided_json": [{}],
        "prediction": [{"type": "content", "content": "a"}],
        "audio": [{"voice": "ash", "format": "wav"}],
        "web_search_options": [{}],
        "prompt_cache_key": [1],
        "extra_body": [{"top_k": 1}],
    }.items(),
)
def test_a_setting_that_would_change_something_is_refused_by_name(
    field: str, values: list[Any]
) -> None:
    for value in values:
        refused(field, **{field: value})


def test_marks_for_caches_pass_at_every_object() -> None:
    marks: Json = {"cache_control": {"type": "ephemeral"}, "prompt_cache_breakpoint": {}}
    image = {**IMAGE, "uuid": "a", **marks}
    text = {"type": "text", "text": "a", **marks}
    tool = {**TOOL, "function": {**TOOL["function"], **marks}, **marks}
    messages = [
        {"role": "system", "content": [text], **marks},
        {"role": "user", "content": [image, text], **marks},
        {"role": "assistant", "content": [text], **marks},
        {"role": "tool", "content": [text], "tool_call_id": "1", **marks},
    ]
    request = parsed(messages=messages, tools=[tool])
    function = {"name": "look", "description": "", "parameters": {}}
    assert request.signatures == [{"type": "function", "function": function}]
    refused("uuid", messages=[{"role": "user", "content": [{**text, "uuid": "a"}]}])


def test_limits_of_an_image_are_fields_and_others_are_refused() -> None:
    def shown(**fields: Any) -> list[Json]:
        url = {"url": "data:,", **fields}
        return [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]

    parsed(messages=shown(min_pixels=1, max_pixels=10, detail="low"))
    for name, values in {
        "detail": ["medium", 1],
        "max_pixels": [0, -1, 1.5, "9", True],
        "min_pixels": [0],
        "max_dynamic_patch": [1],
        "resized_width": [28],
    }.items():
        for value in values:
            refused(name, messages=shown(**{name: value}))
    video = {"type": "video_url", "video_url": {"url": "data:,", "fps": 1}}
    refused("fps", messages=[{"role": "user", "content": [video]}])


def test_a_turn_of_the_policy_as_clients_send_it_back() -> None:
    more = {"annotations": [], "parsed": None, "reasoning_content": "a", "function_call": None}
    call = {"id": "1", "function": {"name": "look", "arguments": None}, "index": 0, "type": None}
    turn = {"role": "assistant", "content": None, "tool_calls": [call], "audio": None, **more}
    (message,) = parsed(messages=[turn]).messages
    assert isinstance(message, wire.AssistantMessage) and message.tool_calls
    assert message.tool_calls[0].function.arguments == ""
    declined = [{"type": "refusal", "refusal": "No."}]
    parsed(messages=[{"role": "assistant", "content": declined}])
    refused("function_call", messages=[{**turn, "function_call": {"name": "look"}}])
    refused("audio", messages=[{**turn, "audio": {"id": "a"}}])


def test_the_neutral_values_are_the_defaults() -> None:
    """So a request that names all of them is the request that names none."""
    defaults = NeutralSettings().model_dump()
    assert parsed(**defaults) == parsed()
