"""The memory of what was said as which tokens, and what clients are shown of a turn."""

from dataclasses import fields

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from openai_served import prompt
from pydantic import ValidationError

from visreplay.agent.chat.renderer import TOKEN_IDS
from visreplay.agent.chat.turn_memory import TurnMemory
from visreplay.agent.openai.messages import as_messages
from visreplay.agent.openai.replay_options import KEPT_FROM_CALLERS, SETTINGS, replay_config
from visreplay.agent.openai.request_schema import ChatRequest
from visreplay.agent.policy.replay_policy import Sampling
from visreplay.replay_core import ConfigError, ReplayConfig

CALL = {"name": "zoom", "args": {"b": 1, "a": [0.5]}, "id": "1", "type": "tool_call"}


QUESTION = HumanMessage("What is it?")


def said(text: str, *calls: object) -> AIMessage:
    return AIMessage(text, tool_calls=list(calls))


def keep(memory: TurnMemory, message: AIMessage, ids: list[int], model: str = "policy") -> None:
    memory.keep(memory.recall(model, [QUESTION]), message, ids)


def recalled(
    memory: TurnMemory,
    message: BaseMessage,
    question: BaseMessage = QUESTION,
    model: str = "policy",
) -> object:
    """The tokens of an answer to a question."""
    memory.recall(model, [question, message])
    return message.additional_kwargs.get(TOKEN_IDS)


def test_what_was_said_is_known_by_its_words_and_calls() -> None:
    memory = TurnMemory()
    keep(memory, said("Look.", CALL), [1, 2, 3])
    keep(memory, said("Look."), [1, 2])
    same = {**CALL, "args": {"a": [0.5], "b": 1}, "id": "another"}
    other = {**CALL, "args": {"a": [0.5], "b": 2}}
    assert recalled(memory, said("Look.", same)) == [1, 2, 3]
    assert recalled(memory, said("Look.")) == [1, 2]
    assert recalled(memory, AIMessage([{"type": "text", "text": "Look."}])) == [1, 2]
    assert recalled(memory, said("Look.", other)) is None
    assert recalled(memory, HumanMessage("Look.")) is None
    keep(memory, said("Look."), [4])
    assert recalled(memory, said("Look.")) == [4]


def test_what_was_said_to_others_is_not_known() -> None:
    """Not in answer to another question, or by another model: it may be other tokens."""
    memory = TurnMemory()
    keep(memory, said("Look."), [1, 2])
    assert recalled(memory, said("Look."), HumanMessage("Where is it?")) is None
    assert recalled(memory, said("Look."), model="base") is None


def test_a_conversation_that_goes_on_is_known() -> None:
    memory = TurnMemory()
    looked = ToolMessage("seen", tool_call_id="7")
    keep(memory, said("Look.", CALL), [1])
    before = [QUESTION, said("Look.", CALL), looked]
    memory.keep(memory.recall("policy", before), said("A cat."), [2])
    after = [QUESTION, said("Look.", CALL), looked, said("A cat.")]
    memory.recall("policy", after)
    assert [m.additional_kwargs.get(TOKEN_IDS) for m in after] == [None, [1], None, [2]]


def test_what_was_not_used_for_longest_is_forgotten_first() -> None:
    memory = TurnMemory(max_tokens=6)
    for number in range(3):
        keep(memory, said(str(number)), [number, number])
    assert recalled(memory, said("0")) == [0, 0]
    keep(memory, said("3"), [3])
    assert [recalled(memory, said(str(n))) for n in range(4)] == [[0, 0], None, [2, 2], [3]]
    keep(memory, said("long"), [0] * 7)
    assert [recalled(memory, said(text)) for text in ("long", "3")] == [None, None]


def request(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate({"model": "policy", "messages": prompt(), **fields})


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
    assert request(logprobs=True, top_logprobs=3).kept_logprobs == 3
    assert request().kept_logprobs is None
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
        request(messages=[*prompt(), {**turn, "tool_calls": calls}, tool]).messages
    )
    assert isinstance(read, AIMessage) and read.content == ""
    assert [call["args"] for call in read.tool_calls] == [{"a": 1}]
    assert [call["args"] for call in read.invalid_tool_calls] == ["[1]"]


@pytest.mark.parametrize("field", ["function_call", "modalities", "logit_bias"])
def test_what_is_not_done_is_refused_rather_than_ignored(field: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        request(**{field: {}})


def test_what_would_change_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="top_logprobs needs logprobs"):
        request(top_logprobs=3)
    tool = {"type": "function", "function": {"name": "zoom"}}
    with pytest.raises(ValidationError, match="two tools are called 'zoom'"):
        request(tools=[tool, tool])


def test_every_field_of_sampling_can_be_set_by_a_request() -> None:
    """A new field needs a field of the request."""
    default = Sampling()
    sampling = request(temperature=0.5, top_p=0.5, max_tokens=5).sampling(default)
    for field in fields(Sampling):
        assert getattr(sampling, field.name) != getattr(default, field.name), field.name


def test_every_setting_of_replay_is_offered_or_kept_from_callers() -> None:
    """A new field is offered; whether callers may have it is decided here."""
    offered = {"method", "replay_layers", "state_layers", "threshold", "tau", "side", "teacher"}
    offered |= {"entry_layer", "top_k", "steps", "learning_rate", "optimizer"}
    assert set(SETTINGS) == offered
    kept = {field.name for field in fields(ReplayConfig)} - offered
    assert set(KEPT_FROM_CALLERS) == kept and all(KEPT_FROM_CALLERS.values())
    for name in kept:
        with pytest.raises(ConfigError, match=f"no setting '{name}'"):
            replay_config(ReplayConfig(), {name: 1})


def test_replay_of_a_caller() -> None:
    default = ReplayConfig()
    assert replay_config(default, {}) == default
    assert replay_config(default, {"steps": 3}).steps == 3
    for said_, told in (
        ({"memory_bytes": 1}, "no setting 'memory_bytes'"),
        ({"steps": 1000}, "at most"),
        ({"steps": [1]}, "replay.steps"),
        ({"top_k": 10**30}, "at most"),
        ({"swap_roles": True}, "no setting 'swap_roles'"),
    ):
        with pytest.raises(ConfigError, match=told):
            replay_config(default, said_)
