"""The memory of what was said as which tokens, and what clients are shown of a turn."""

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from openai_served import asked
from pydantic import ValidationError

from visreplay.agent.chat_messages import TOKEN_IDS
from visreplay.agent.openai_chat import TurnMemory
from visreplay.agent.openai_messages import as_messages
from visreplay.agent.openai_replay import replay_config
from visreplay.agent.openai_schema import ChatRequest
from visreplay.agent.policy import Sampling
from visreplay.replay_core import ConfigError, ReplayConfig

CALL = {"name": "zoom", "args": {"b": 1, "a": [0.5]}, "id": "1", "type": "tool_call"}


def said(text: str, *calls: object) -> AIMessage:
    return AIMessage(text, tool_calls=list(calls))


def recalled(memory: TurnMemory, *messages: BaseMessage) -> list[object]:
    memory.recall(messages)
    return [message.additional_kwargs.get(TOKEN_IDS) for message in messages]


def test_what_was_said_is_known_by_its_words_and_calls() -> None:
    memory = TurnMemory()
    memory.keep(said("Look.", CALL), [1, 2, 3])
    memory.keep(said("Look."), [1, 2])
    same = {**CALL, "args": {"a": [0.5], "b": 1}, "id": "another"}
    other = {**CALL, "args": {"a": [0.5], "b": 2}}
    assert recalled(memory, said("Look.", same), said("Look."), said("Look.", other)) == [
        [1, 2, 3],
        [1, 2],
        None,
    ]
    assert recalled(memory, HumanMessage("Look.")) == [None]
    memory.keep(said("Look."), [4])
    assert recalled(memory, said("Look.")) == [[4]]


def test_the_oldest_is_forgotten_first() -> None:
    memory = TurnMemory(max_tokens=5)
    for number in range(4):
        memory.keep(said(str(number)), [number, number])
    memory.keep(said("3"), [3])  # again
    found = recalled(memory, *(said(str(number)) for number in range(4)))
    assert found == [None, None, [2, 2], [3]]
    memory.keep(said("long"), [0] * 6)
    assert recalled(memory, said("long"), said("3")) == [None, None]


def request(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate({"model": "policy", "messages": asked(), **fields})


def test_how_to_decode() -> None:
    default = Sampling(0.5, 0.9, 100)
    assert request().sampling(default) == default
    some = request(temperature=0, top_p=1, max_tokens=5)
    assert some.sampling(default) == Sampling(0, 1, 5)
    both = request(max_tokens=5, max_completion_tokens=6)
    assert both.sampling(default).max_new_tokens == 6
    assert request(n=2).seeds == [None, None]
    assert request(n=3, seed=2**63 - 2).seeds == [2**63 - 2, 2**63 - 1, 0]
    assert request(stop="a").stops == ["a"] and request().stops == []
    assert request(top_logprobs=3).kept_logprobs is None
    assert request(logprobs=True).kept_logprobs == 0
    assert request(frequency_penalty=0.0, presence_penalty=0).frequency_penalty == 0


def test_what_clients_send_back_is_read() -> None:
    function = {"name": "zoom", "arguments": '{"a": 1}', "parsed_arguments": {"a": 1}}
    calls = [
        {"id": "1", "type": "function", "function": function},
        {"id": "2", "type": "function", "function": {"name": "zoom", "arguments": "[1]"}},
    ]
    turn = {"role": "assistant", "content": None, "refusal": None, "audio": None}
    tool = {"role": "tool", "tool_call_id": "1", "content": "a"}
    _, read, _ = as_messages(
        request(messages=[*asked(), {**turn, "tool_calls": calls}, tool]).messages
    )
    assert isinstance(read, AIMessage) and read.content == ""
    assert [call["args"] for call in read.tool_calls] == [{"a": 1}]
    assert [call["args"] for call in read.invalid_tool_calls] == ["[1]"]


@pytest.mark.parametrize("field", ["function_call", "modalities", "logit_bias"])
def test_what_is_not_done_is_refused_rather_than_ignored(field: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        request(**{field: {}})


def test_replay_of_a_caller() -> None:
    default = ReplayConfig()
    assert replay_config(default, {}) == default
    assert replay_config(default, {"steps": 3}).steps == 3
    for said_, told in (
        ({"memory_bytes": 1}, "no setting 'memory_bytes'"),
        ({"steps": 1000}, "at most"),
        ({"steps": [1]}, "replay.steps"),
    ):
        with pytest.raises(ConfigError, match=told):
            replay_config(default, said_)
