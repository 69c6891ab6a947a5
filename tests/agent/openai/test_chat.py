"""The memory of generated tokens, and how requests are read."""

from dataclasses import fields

import pytest
from openai_served import prompt
from pydantic import ValidationError

from visreplay.agent import Message, get_protocol
from visreplay.agent.chat.renderer import ChatRenderer
from visreplay.agent.chat.turn_memory import TurnMemory
from visreplay.agent.messages import ToolCall, text, user
from visreplay.agent.openai.messages import from_openai
from visreplay.agent.openai.replay_options import KEPT_FROM_CALLERS, SETTINGS, replay_config
from visreplay.agent.openai.request_schema import ChatRequest
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.policy.sampling import Sampling
from visreplay.replay_core import ConfigError, ModelPair, ReplayConfig
from visreplay.tools import ImageStore

CALL = ToolCall(name="zoom", arguments={"b": 1, "a": [0.5]}, id="1")
QUESTION = user(text("What is it?"))


def turn(*words: str, calls: tuple[ToolCall, ...] = ()) -> Message:
    return {
        "role": "assistant",
        "content": [text(word) for word in words],
        "tool_calls": list(calls),
    }


def keep(memory: TurnMemory, message: Message, ids: list[int], model: str = "policy") -> None:
    memory.keep(memory.recall(model, [QUESTION]), message, ids)


def recalled(
    memory: TurnMemory, message: Message, question: Message = QUESTION, model: str = "policy"
) -> object:
    """The tokens of an answer to a question."""
    memory.recall(model, [question, message])
    return message.get("token_ids")


def test_a_turn_is_known_by_its_text_and_calls() -> None:
    memory = TurnMemory()
    keep(memory, turn("Look.", calls=(CALL,)), [1, 2, 3])
    keep(memory, turn("Look."), [1, 2])
    same = ToolCall(name="zoom", arguments={"a": [0.5], "b": 1}, id="another")
    other = ToolCall(name="zoom", arguments={"a": [0.5], "b": 2}, id="1")
    assert recalled(memory, turn("Look.", calls=(same,))) == [1, 2, 3]
    assert recalled(memory, turn("Look.")) == [1, 2]
    assert recalled(memory, turn("Lo", "ok.")) == [1, 2]
    assert recalled(memory, turn("Look.", calls=(other,))) is None
    assert recalled(memory, user(text("Look."))) is None
    keep(memory, turn("Look."), [4])
    assert recalled(memory, turn("Look.")) == [4]


def test_a_turn_to_others_is_not_known() -> None:
    """Not in answer to another question, or by another model: it may be other tokens."""
    memory = TurnMemory()
    keep(memory, turn("Look."), [1, 2])
    assert recalled(memory, turn("Look."), user(text("Where is it?"))) is None
    assert recalled(memory, turn("Look."), model="base") is None


def test_a_longer_conversation_is_known() -> None:
    memory = TurnMemory()

    def result(call_id: str) -> Message:
        return {"role": "tool", "content": [text("a cat")], "tool_call_id": call_id}

    keep(memory, turn("Look.", calls=(CALL,)), [1])
    before = [QUESTION, turn("Look.", calls=(CALL,)), result("7")]
    memory.keep(memory.recall("policy", before), turn("A cat."), [2])
    after = [QUESTION, turn("Look.", calls=(CALL,)), result("7"), turn("A cat.")]
    memory.recall("policy", after)
    assert [message.get("token_ids") for message in after] == [None, [1], None, [2]]
    other = [QUESTION, turn("Look.", calls=(CALL,)), result("8"), turn("A cat.")]
    memory.recall("policy", other)
    assert [message.get("token_ids") for message in other] == [None, [1], None, None]


def test_the_least_recently_used_turns_are_forgotten_first() -> None:
    memory = TurnMemory(max_tokens=3 * (2 + 64))  # each turn counts 64 tokens more
    for number in range(3):
        keep(memory, turn(str(number)), [number, number])
    assert recalled(memory, turn("0")) == [0, 0]
    keep(memory, turn("3"), [3])
    assert [recalled(memory, turn(str(n))) for n in range(4)] == [[0, 0], None, [2, 2], [3]]
    keep(memory, turn("long"), [0] * 135)
    assert [recalled(memory, turn(words)) for words in ("long", "3")] == [None, [3]]


@pytest.fixture
def renderer(embedded_pair: ModelPair) -> ChatRenderer:
    protocol = get_protocol("hermes", token_grid(embedded_pair.processor), ImageStore())
    return ChatRenderer(protocol, embedded_pair.tokenizer)


def request(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate({"model": "policy", "messages": prompt(), **fields})


def test_how_to_decode() -> None:
    assert request().sampling == Sampling()
    some = request(temperature=0, top_p=1, top_k=3, repetition_penalty=1.1, max_tokens=5)
    assert some.sampling == Sampling(0, 1, 3, 1.1, 5)
    assert request(top_k=-1).sampling == request(top_k=0).sampling == Sampling(top_k=0)
    both = request(max_tokens=5, max_completion_tokens=6)
    assert both.sampling.max_new_tokens == 6
    assert request(n=2).seeds == [None, None]
    assert request(n=3, seed=2**63 - 2).seeds == [2**63 - 2, 2**63 - 1, 0]
    assert request(stop="a").stops == ["a"] and request().stops == []
    assert request(logprobs=True, top_logprobs=3).kept_logprobs == 3
    assert request().kept_logprobs is None
    assert request(logprobs=True).kept_logprobs == 0
    assert request(frequency_penalty=0.0, presence_penalty=0).frequency_penalty == 0


def test_turns_that_clients_send_back_are_converted(renderer: ChatRenderer) -> None:
    function = {"name": "zoom", "arguments": '{"a": 1}', "parsed_arguments": {"a": 1}}
    calls = [
        {"id": "1", "type": "function", "function": function},
        {"id": "2", "type": "function", "function": {"name": "zoom", "arguments": "[1]"}},
    ]
    answer = {"role": "assistant", "content": None, "refusal": None, "audio": None}
    tool = {"role": "tool", "tool_call_id": "1", "content": "a"}
    _, converted, result = from_openai(
        request(messages=[*prompt(), {**answer, "tool_calls": calls}, tool]).messages, renderer
    )
    assert converted == {
        "role": "assistant",
        "content": [],
        "tool_calls": [{"name": "zoom", "arguments": {"a": 1}, "id": "1"}],
        "unparsed_calls": [
            {
                "text": '<tool_call>\n{"name": "zoom", "arguments": [1]}\n</tool_call>',
                "error": "the arguments are no JSON object",
                "id": "2",
            }
        ],
    }
    assert result == {"role": "tool", "content": [text("a")], "tool_call_id": "1"}


def test_images_and_instructions_are_converted(renderer: ChatRenderer) -> None:
    (question,) = prompt()
    instructions = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be right."}]},
    ]
    *systems, converted = from_openai(
        request(messages=[*instructions, question]).messages, renderer
    )
    assert systems == [
        {"role": "system", "content": [text("Be brief.")]},
        {"role": "system", "content": [text("Be right.")]},
    ]
    picture, words = converted["content"]
    assert picture["type"] == "image" and picture["image"] in renderer.protocol.store
    assert words == text(question["content"][1]["text"])


@pytest.mark.parametrize("field", ["function_call", "modalities", "logit_bias"])
def test_what_is_not_done_is_refused_rather_than_ignored(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        request(**{field: {"name": "f"}})


def test_what_would_change_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="top_logprobs needs logprobs"):
        request(top_logprobs=3)
    tool = {"type": "function", "function": {"name": "zoom"}}
    with pytest.raises(ValidationError, match="two tools are called 'zoom'"):
        request(tools=[tool, tool])


def test_every_field_of_sampling_can_be_set_by_a_request() -> None:
    """A new field needs a field of the request."""
    some = request(temperature=0.5, top_p=0.5, top_k=5, repetition_penalty=1.5, max_tokens=5)
    for field in fields(Sampling):
        assert getattr(some.sampling, field.name) is not None, field.name


def test_every_setting_of_replay_is_offered_or_kept_from_callers() -> None:
    """A new field is offered; whether callers may have it is decided here."""
    offered = {"method", "replay_layers", "state_layers", "threshold", "tau", "side", "teacher"}
    offered |= {"alignment", "entry_layer", "top_k", "steps", "plateau", "learning_rate"}
    offered |= {"optimizer", "feature_layers", "patched_layers"}
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
