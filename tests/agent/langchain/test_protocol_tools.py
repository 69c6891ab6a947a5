"""A dialect's own tools in LangChain: the policy is shown what an episode shows it."""

import asyncio
import re
from typing import Any

import pytest
from conversations import CLIP, PICTURES, SCRIPTS, play
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from visreplay.agent import Message, ReplayChatModel, get_protocol, protocol_tools, question
from visreplay.agent.chat.renderer import ChatRenderer
from visreplay.agent.langchain.protocol_tools import episode_messages
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.protocols import PROTOCOLS
from visreplay.replay_core import ModelPair

NAMED = [name for name, script in SCRIPTS.items() if PROTOCOLS[script.protocol].named_calls]
BOX = [2, 2, 4, 4]


def model_for(pair: ModelPair, dialect: str) -> ReplayChatModel:
    return ReplayChatModel(pair=pair, protocol=dialect)


def interpreter_of(model: ReplayChatModel) -> ChatRenderer:
    grid = token_grid(model.pair.processor)
    return ChatRenderer(get_protocol(model.protocol, grid, model.store), model.pair.tokenizer)


def run_tools(model: ReplayChatModel, messages: list[AnyMessage], **options: Any) -> list[Any]:
    """What a `ToolNode` adds."""
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode(protocol_tools(model, **options)))
    graph.add_edge(START, "tools")
    return graph.compile().invoke({"messages": messages})["messages"][len(messages) :]


def heard(messages: list[Message]) -> str:
    """All that the policy is shown, turn by turn, with the references of images."""
    turns = []
    for message in messages:
        if message["role"] != "assistant":
            shown = []
            for part in message["content"]:
                shown.append(part["text"] if part["type"] == "text" else str(part))
            turns.append(f"{message['role']}: {''.join(shown)}")
    return "\n".join(turns)


@pytest.mark.parametrize("name", NAMED)
def test_a_policy_is_shown_what_it_is_shown_in_an_episode(
    embedded_pair: ModelPair, name: str
) -> None:
    script = SCRIPTS[name]
    state, protocol = play(script, token_grid(embedded_pair.processor))
    model = model_for(embedded_pair, script.protocol)
    interpreter = interpreter_of(model)
    video = CLIP if script.video else None
    images = PICTURES[: script.images]
    messages: list[AnyMessage] = [question(model, "What is it?", images, video=video)]
    for turn in script.turns[:-1]:
        said = interpreter.said(turn)
        messages.append(AIMessage(said.content, tool_calls=list(said.tool_calls)))
        messages += run_tools(model, messages, video=video)
    signatures = [convert_to_openai_tool(tool) for tool in protocol_tools(model, video=video)]
    assert heard(interpreter.conversation(messages, signatures)) == heard(state["messages"][:-1])
    assert protocol.own_tools == tuple(signatures)


def looked(model: ReplayChatModel, args: dict[str, Any], name: str = "zoom") -> list[AnyMessage]:
    call = AIMessage("", tool_calls=[{"name": name, "args": args, "id": "1"}])
    return [question(model, "?", [PICTURES[0]]), call]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"bbox_2d": BOX, "self": 1}, "unknown argument 'self'"),
        ({"bbox_2d": BOX, "config": 1}, "unknown argument 'config'"),
        ({"bbox_2d": BOX, "run_manager": 1}, "unknown argument 'run_manager'"),
        ({"bbox_2d": "all"}, "a box is four numbers"),
        ({}, "argument 'bbox_2d' is missing"),
    ],
)
def test_whatever_a_model_writes_is_told_to_it(
    embedded_pair: ModelPair, args: dict[str, Any], told: str
) -> None:
    model = model_for(embedded_pair, "embedded")
    (result,) = run_tools(model, looked(model, args))
    assert result.status == "error"
    assert told in result.content


@pytest.mark.parametrize("dialect", sorted({SCRIPTS[name].protocol for name in NAMED}))
def test_a_call_without_a_picture_is_told_to_the_model(
    embedded_pair: ModelPair, dialect: str
) -> None:
    model = model_for(embedded_pair, dialect)
    for tool in protocol_tools(model):
        required = tool.tool_call_schema["required"]  # type: ignore[index]
        args = {name: [0.1, 0.1, 0.5, 0.5] if name == "bbox_2d" else 1 for name in required}
        call = AIMessage("", tool_calls=[{"name": tool.name, "args": args, "id": "1"}])
        (result,) = run_tools(model, [HumanMessage("What is it?"), call])
        assert result.status == "error"
        assert re.search(r"there (is|are) no (image|clip)", result.content)


def test_a_model_cannot_forge_what_the_graph_knows(embedded_pair: ModelPair) -> None:
    model = model_for(embedded_pair, "embedded")
    forged = {"bbox_2d": BOX, "messages": [HumanMessage("another")], "runtime": 1}
    (result,) = run_tools(model, looked(model, forged))
    assert result.status == "success"
    assert result.artifact["source"] == model.store.put(PICTURES[0])


def test_tools_run_in_asynchronous_graphs_too(embedded_pair: ModelPair) -> None:
    model = model_for(embedded_pair, "embedded")
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode(protocol_tools(model)))
    graph.add_edge(START, "tools")
    asked = {"messages": looked(model, {"bbox_2d": BOX, "self": 1})}
    told = asyncio.run(graph.compile().ainvoke(asked))["messages"][-1]
    assert "unknown argument 'self'" in told.content
    asked = {"messages": looked(model, {"bbox_2d": BOX})}
    seen = asyncio.run(graph.compile().ainvoke(asked))["messages"][-1]
    assert seen.content == [{"type": "image", "url": f"visreplay:{seen.artifact['images'][0]}"}]


def test_a_question_without_pictures_is_about_those_that_were_sent_last(
    embedded_pair: ModelPair,
) -> None:
    model = model_for(embedded_pair, "deepeyes")
    first, second = model.image(PICTURES[0]), model.image(PICTURES[1])
    history: list[AnyMessage] = [
        HumanMessage([first, {"type": "text", "text": "One?"}]),
        AIMessage("1"),
        HumanMessage([second, {"type": "text", "text": "Two?"}]),
        AIMessage("2"),
        HumanMessage("Three?"),
    ]
    call = AIMessage(
        "",
        tool_calls=[{"name": "image_zoom_in_tool", "args": {"bbox_2d": [0, 0, 99, 99]}, "id": "1"}],
    )
    (opened,) = episode_messages(model, history)
    assert opened == question(model, "Three?", [PICTURES[1]])
    (result,) = run_tools(model, [*history, call])
    assert isinstance(result, ToolMessage)
    assert result.artifact["source"] == model.store.put(PICTURES[1])
    assert episode_messages(model, [*history, call, result]) == [opened, call, result]
