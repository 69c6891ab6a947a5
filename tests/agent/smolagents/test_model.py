"""The model for smolagents on the embedded pair, with real agents around it."""

import copy
import importlib
import json
import pickle
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from chat_tools import tools_for
from PIL import Image
from shared import MakeAgent
from smolagents import (
    REMOVE_PARAMETER,
    ChatMessage,
    CodeAgent,
    MessageRole,
    Model,
    Tool,
    ToolCallingAgent,
)
from smolagents.memory import ActionStep, PlanningStep, TaskStep
from smolagents.models import agglomerate_stream_deltas

from visreplay.agent import MessageError
from visreplay.agent.chat.chat_policy import ChatPolicy, ChatReply
from visreplay.agent.policy.replay_policy import PolicyTurn
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.smolagents.model import ReplayModel
from visreplay.agent.smolagents.tools import PLAIN_PROMPTS, LangChainTool, keep_images
from visreplay.replay_core import EMBEDDED, Method, ModelPair, embedded_config
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample, Split
from visreplay.tools import load_image

SEARCH = get_task("visual-search-medium").sample(Split.TUNING + 1)
BLUE = Image.new("RGB", (56, 56), "blue")
STORED = "Stored 'image.png' in memory."


def chat_on(pair: ModelPair, protocol: str = "embedded") -> ChatPolicy:
    sampling = Sampling(max_new_tokens=96)
    return ChatPolicy(pair, embedded_config(Method.TOKEN), protocol, sampling=sampling)


@pytest.fixture
def model(embedded_pair: ModelPair) -> ReplayModel:
    return ReplayModel(chat_on(embedded_pair))


def agent_for(model: ReplayModel, tools: Sequence[Tool], **options: object) -> ToolCallingAgent:
    settings: dict[str, object] = {"max_steps": 4, "verbosity_level": 0, **options}
    return ToolCallingAgent(
        list(tools),
        model,
        prompt_templates=PLAIN_PROMPTS,
        step_callbacks=[keep_images],
        **settings,
    )


def player(model: ReplayModel, sample: Sample, **options: object) -> ToolCallingAgent:
    """An agent with the embedded pair's own tools."""
    tools = [LangChainTool(tool, model.chat.store) for tool in tools_for(model.chat, sample)]
    return agent_for(model, tools, **options)


def pictures(sample: Sample) -> list[Image.Image]:
    return [load_image(image) for image in sample.images]


def task(sample: Sample = SEARCH) -> list[ChatMessage]:
    return TaskStep(sample.question, pictures(sample)).to_messages()


def actions(agent: ToolCallingAgent | CodeAgent) -> list[ActionStep]:
    return [step for step in agent.memory.steps if isinstance(step, ActionStep)]


def turn_of(message: ChatMessage | None) -> PolicyTurn:
    assert message is not None and isinstance(message.raw, ChatReply)
    return message.raw.turn


def replay_of(message: ChatMessage | None) -> dict[str, Any]:
    replay = turn_of(message).replay
    assert replay is not None
    return replay


def known(message: ChatMessage | None) -> int:
    """How many tokens had been read before."""
    return turn_of(message).known_tokens


def total(message: ChatMessage | None) -> int:
    turn = turn_of(message)
    return turn.context_tokens + len(turn.message["token_ids"])


# Whole agents on the embedded pair


def test_a_tool_calling_agent_answers_as_the_visual_agent_does(
    model: ReplayModel, make_agent: MakeAgent
) -> None:
    visual_agent = make_agent()
    opened = get_task("visual-search-medium")
    right = 0
    for sample_id in opened.sample_ids()[:4]:
        sample = opened.load(sample_id)
        agent = player(model, sample)
        answer = agent.run(sample.question, images=pictures(sample))
        trajectory = visual_agent.run(sample.question, images=sample.images)
        assert answer == trajectory.answer
        first, *later = actions(agent)
        assert len(later) == len(trajectory.steps) - 1
        # The tokens are the same too, not only the answer.
        for step, played in zip(actions(agent), trajectory.steps, strict=True):
            assert replay_of(step.model_output_message) | {"seconds": 0} == (
                dict(played["replay"] or {}) | {"seconds": 0}
            )
        # A step costs its new tokens alone.
        assert known(first.model_output_message) == 0
        before = first
        for step in later:
            assert known(step.model_output_message) == total(before.model_output_message)
            before = step
        right += opened.is_right(sample, str(answer))
    assert right >= 3


def test_an_image_that_a_tool_gives_is_seen_by_way_of_the_callback(model: ReplayModel) -> None:
    zoom, _ = tools_for(model.chat, SEARCH)

    class Zoom(Tool):  # type: ignore[misc]
        name = "zoom"
        description = "Look at a region of the picture."
        inputs = {  # noqa: RUF012
            "label": {"type": "string", "description": "What of."},
            "bbox_2d": {"type": "array", "description": "Where."},
        }
        output_type = "image"

        def forward(self, label: str, bbox_2d: list[float]) -> Image.Image:
            (block,) = zoom.invoke({"label": label, "bbox_2d": bbox_2d})
            return model.chat.store.get(block["url"].removeprefix("visreplay:"))

    agent = agent_for(model, [Zoom()], max_steps=2)
    agent.run(SEARCH.question, images=pictures(SEARCH))
    look, answer = actions(agent)
    assert look.observations == STORED
    assert look.observations_images is not None
    (crop,) = look.observations_images
    assert type(crop) is Image.Image
    assert replay_of(answer.model_output_message)["new_visual_tokens"] == 36
    assert known(answer.model_output_message) == total(look.model_output_message)
    # smolagents by itself shows the task's picture again after the steps.
    assert answer.observations_images is None
    plain = ToolCallingAgent(
        [Zoom()], model, prompt_templates=PLAIN_PROMPTS, max_steps=2, verbosity_level=0
    )
    plain.run(SEARCH.question, images=pictures(SEARCH))
    assert actions(plain)[0].observations_images == pictures(SEARCH)


def test_an_agent_that_streams_does_the_same(model: ReplayModel) -> None:
    whole = player(model, SEARCH)
    answer = whole.run(SEARCH.question, images=pictures(SEARCH))
    agent = player(ReplayModel(chat_on(model.chat.pair)), SEARCH, stream_outputs=True)
    assert agent.run(SEARCH.question, images=pictures(SEARCH)) == answer
    for step, streamed in zip(actions(whole), actions(agent), strict=True):
        assert streamed.model_output == step.model_output
        assert streamed.observations == step.observations
        assert streamed.token_usage == step.token_usage
        assert [call.arguments for call in streamed.tool_calls or ()] == (
            [call.arguments for call in step.tool_calls or ()]
        )


def test_a_second_task_goes_on_from_the_first(model: ReplayModel) -> None:
    agent = player(model, SEARCH)
    agent.run(SEARCH.question, images=pictures(SEARCH))
    played = actions(agent)
    agent.run(SEARCH.question, images=pictures(SEARCH), reset=False, max_steps=1)
    after = actions(agent)[len(played)]
    assert known(after.model_output_message) == total(played[-1].model_output_message)


def test_an_agent_may_plan_and_have_another_agent_for_a_tool(model: ReplayModel) -> None:
    helper = player(model, SEARCH, name="helper", description="It looks.")
    agent = agent_for(
        model, [], planning_interval=1, max_steps=1, managed_agents=[helper], stream_outputs=True
    )
    agent.run("Well?")
    (planned,) = [step for step in agent.memory.steps if isinstance(step, PlanningStep)]
    assert planned.token_usage is not None and planned.token_usage.output_tokens > 0


def test_a_run_returns_its_whole_result(model: ReplayModel) -> None:
    agent = player(model, SEARCH)
    result = agent.run(SEARCH.question, images=pictures(SEARCH), return_full_result=True)
    assert result.state == "success"
    steps = actions(agent)
    context = sum(turn_of(step.model_output_message).context_tokens for step in steps)
    assert result.token_usage.input_tokens == context


# Turns


def test_a_stop_sequence_ends_a_turn_and_is_left_out(model: ReplayModel) -> None:
    whole = model.generate(task())
    cut = model.generate(task(), stop_sequences=["</think>"])
    assert cut.content == str(whole.content).partition("</think>")[0]
    assert cut.tool_calls is None
    streamed = agglomerate_stream_deltas(
        list(model.generate_stream(task(), stop_sequences=["</think>"]))
    )
    assert streamed.content == cut.content
    assert model.supports_stop_parameter


def test_a_turn_whose_stop_sequence_is_put_back_keeps_its_tokens(
    model: ReplayModel,
) -> None:
    """As a CodeAgent does with the end of its code."""
    cut = model.generate(task(), stop_sequences=["</think>"])
    for ending, kept in (("</think>", total(cut)), ("", None)):
        completed = ChatMessage(
            MessageRole.ASSISTANT, [{"type": "text", "text": f"{cut.content}{ending}"}]
        )
        more = ChatMessage(MessageRole.USER, [{"type": "text", "text": "Well?"}])
        reply = model.generate([*task(), completed, more])
        assert known(reply) == (turn_of(cut).context_tokens if kept is None else kept)


def test_calls_stream_last_and_are_the_same(model: ReplayModel) -> None:
    whole = model.generate(task())
    deltas = list(model.generate_stream(task()))
    assert len(deltas) > 5
    message = agglomerate_stream_deltas(deltas)
    assert message.content == whole.content
    assert whole.tool_calls and message.tool_calls
    (call,), (streamed,) = whole.tool_calls, message.tool_calls
    assert call.function.name == streamed.function.name == "zoom"
    assert call.function.arguments == json.loads(streamed.function.arguments)
    assert message.token_usage == whole.token_usage
    assert [delta.tool_calls for delta in deltas[:-1]] == [None] * (len(deltas) - 1)


def test_options_of_the_constructor_win_over_those_of_a_call(embedded_pair: ModelPair) -> None:
    chat = chat_on(embedded_pair)
    short = ReplayModel(chat).generate(task(), max_tokens=3)
    assert short.token_usage is not None and short.token_usage.output_tokens == 3
    # As with smolagents' other models, the constructor has the last word.
    for name in ("max_tokens", "max_new_tokens"):
        firm = ReplayModel(chat, **{name: 5}).generate(task(), max_tokens=3)
        assert firm.token_usage is not None and firm.token_usage.output_tokens == 5
    removed = ReplayModel(chat, max_tokens=REMOVE_PARAMETER).generate(task(), max_tokens=3)
    assert removed.token_usage is not None and removed.token_usage.output_tokens > 5
    drawn = [ReplayModel(chat, temperature=1.5, seed=n).generate(task()).content for n in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_forced_call_begins_the_turn(embedded_pair: ModelPair) -> None:
    model = ReplayModel(chat_on(embedded_pair), tool_choice="required", max_new_tokens=8)
    tools = player(model, SEARCH).tools_and_managed_agents
    reply = model.generate(task(), tools_to_call_from=tools)
    assert str(reply.content).startswith('<tool_call>{"name":')
    # The call is cut off, and the policy reads so in the protocol's words.
    with pytest.raises(ValueError, match="is not closed with </tool_call>"):
        model.parse_tool_calls(reply)


@pytest.mark.parametrize(
    ("written", "name", "arguments"),
    [
        ("<think>a</think><answer>L</answer>", "final_answer", {"answer": "L"}),
        ("<think>a</think>It is L.", "final_answer", {"answer": "It is L."}),
        ('Action:\n{"name": "look", "arguments": {"at": 1}}', "look", {"at": 1}),
        ('<answer>{"name": "look", "arguments": {}}</answer>', "final_answer",
         {"answer": '{"name": "look", "arguments": {}}'}),
    ],
)  # fmt: skip
def test_a_turn_without_calls_is_an_answer_or_a_call_as_smolagents_writes_it(
    embedded_pair: ModelPair, written: str, name: str, arguments: object
) -> None:
    model = ReplayModel(chat_on(embedded_pair, "hermes"))
    message = model.parse_tool_calls(ChatMessage(MessageRole.ASSISTANT, written))
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) == (name, arguments)


def test_a_turn_that_the_token_limit_cut_off_is_no_answer(embedded_pair: ModelPair) -> None:
    model = ReplayModel(chat_on(embedded_pair, "hermes"))
    hello = ChatMessage(MessageRole.USER, [{"type": "text", "text": "Hello"}])
    reply = model.generate([hello], max_tokens=1)
    with pytest.raises(ValueError, match="neither a tool call nor an answer that is finished"):
        model.parse_tool_calls(reply)


# What is refused


def test_what_cannot_be_done_is_refused(embedded_pair: ModelPair) -> None:
    chat = chat_on(embedded_pair)
    model = ReplayModel(chat)
    with pytest.raises(ValueError, match="not forced into a schema"):
        model.generate(task(), response_format={"type": "json_object"})
    with pytest.raises(
        ValueError, match="no option 'timeout'; there are max_new_tokens, max_tokens, repetition"
    ):
        ReplayModel(chat, timeout=3)
    with pytest.raises(ValueError, match="no option 'flatten_messages_as_text'"):
        model.generate(task(), flatten_messages_as_text=True)
    tools = player(model, SEARCH).tools_and_managed_agents
    with pytest.raises(ValueError, match="tool_choice is 'paint'; the tools are zoom"):
        model.generate(task(), tools_to_call_from=tools, tool_choice="paint")
    other = ReplayModel(chat_on(embedded_pair, "mini-o3"))
    with pytest.raises(ValueError, match="mini-o3 protocol calls no tools but its own"):
        other.generate(task(), tools_to_call_from=tools)
    with pytest.raises(MessageError, match="has no type"):
        model.generate([{"role": "user", "content": [{"image": BLUE}]}])
    with pytest.raises(MessageError, match="0 x 0"):
        empty = Image.new("RGB", (0, 0))
        model.generate([{"role": "user", "content": [{"type": "image", "image": empty}]}])
    with pytest.raises(MessageError, match="is not fetched"):
        url = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
        model.generate([{"role": "user", "content": [url]}])
    with pytest.raises(ValueError, match="'painter'"):
        model.generate([{"role": "painter", "content": "Hello"}])


def test_without_smolagents_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smolagents", None)
    monkeypatch.delitem(sys.modules, ReplayModel.__module__)
    with pytest.raises(ImportError, match=r"pip install 'visreplay\[smolagents\]'"):
        importlib.import_module(ReplayModel.__module__)


def test_a_dictionary_leads_back_to_checkpoints(embedded_pair: ModelPair) -> None:
    loaded = ReplayModel.from_pretrained(
        str(EMBEDDED / "policy"),
        str(EMBEDDED / "base"),
        replay=embedded_config(Method.STATE),
        load_options={"device": "cpu"},
        protocol="embedded",
        max_new_tokens=96,
        seed=3,
    )
    again = ReplayModel.from_dict(json.loads(json.dumps(loaded.to_dict())))
    assert isinstance(again, Model)
    assert again.to_dict() == loaded.to_dict()
    assert again.chat.replay == loaded.chat.replay
    assert again.generate(task()).content == loaded.generate(task()).content
    with pytest.raises(ValueError, match="built on a pair in memory"):
        ReplayModel.from_dict(ReplayModel(chat_on(embedded_pair)).to_dict())


def test_the_embedded_pair_needs_no_settings(model: ReplayModel) -> None:
    loaded = ReplayModel.from_pretrained("embedded", load_options={"device": "cpu"})
    assert loaded.chat.protocol.name == "embedded"
    assert loaded.chat.replay == embedded_config(Method.TOKEN)
    assert loaded.generate(task()).content == model.generate(task()).content


def test_copies_share_weights_and_none_is_pickled(embedded_pair: ModelPair) -> None:
    model = ReplayModel(chat_on(embedded_pair), stop=["</never>"], max_tokens=8)
    messages = [{"role": "user", "content": "Hello"}]
    for copied in (copy.copy(model), copy.deepcopy(model)):
        assert copied is not model and copied.chat.pair is embedded_pair
        assert copied.generate(messages).content == model.generate(messages).content
    copy.deepcopy(model).kwargs["stop"].append("a")
    assert model.kwargs["stop"] == ["</never>"]
    with pytest.raises(TypeError, match=r"a ReplayModel holds weights .*from_pretrained"):
        pickle.dumps(model)
