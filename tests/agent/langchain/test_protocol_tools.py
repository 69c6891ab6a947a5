"""A protocol's own tools in LangChain: the policy reads what it reads in an episode."""

import asyncio
import re
from typing import Any

import pytest
from conversations import CLIP, PICTURES, SCRIPTS, play
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import tool_call
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from visreplay.agent import Message, ReplayChatModel, protocol_tools, question
from visreplay.agent.langchain.messages import from_langchain
from visreplay.agent.langchain.protocol_tools import last_question
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.protocols import PROTOCOLS, RECIPES
from visreplay.replay_core import ModelPair

NAMED = [name for name, script in SCRIPTS.items() if PROTOCOLS[script.protocol].named_calls]
BOX = [2, 2, 4, 4]


def model_for(pair: ModelPair, protocol: str) -> ReplayChatModel:
    return ReplayChatModel(pair=pair, protocol=protocol)


def run_tools(model: ReplayChatModel, messages: list[AnyMessage], **options: Any) -> list[Any]:
    """The messages that a `ToolNode` adds."""
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode(protocol_tools(model, **options)))
    graph.add_edge(START, "tools")
    return graph.compile().invoke({"messages": messages})["messages"][len(messages) :]


def transcript(messages: list[Message]) -> str:
    """Everything that the policy reads, turn by turn, with the references of images."""
    turns = []
    for message in messages:
        if message["role"] != "assistant":
            parts = []
            for part in message["content"]:
                parts.append(part["text"] if part["type"] == "text" else str(part))
            turns.append(f"{message['role']}: {''.join(parts)}")
    return "\n".join(turns)


@pytest.mark.parametrize("name", NAMED)
def test_a_policy_reads_what_it_reads_in_an_episode(embedded_pair: ModelPair, name: str) -> None:
    script = SCRIPTS[name]
    state, protocol = play(script, token_grid(embedded_pair.processor))
    model = model_for(embedded_pair, script.protocol)
    renderer = model.renderer
    video = CLIP if script.video else None
    images = PICTURES[: script.images]
    messages: list[AnyMessage] = [question(model, "What is it?", images, video=video)]
    for turn in script.turns[:-1]:
        reply = renderer.parse_reply(turn)
        calls = [
            tool_call(name=call["name"], args=call["arguments"], id=call["id"])
            for call in reply.tool_calls
        ]
        messages.append(AIMessage(reply.content, tool_calls=calls))
        messages += run_tools(model, messages, video=video)
    signatures = [convert_to_openai_tool(tool) for tool in protocol_tools(model, video=video)]
    conversation = renderer.conversation(from_langchain(messages, renderer), signatures)
    assert transcript(conversation) == transcript(state["messages"][:-1])
    assert protocol.own_tools == tuple(signatures)


@pytest.mark.parametrize("name", RECIPES)
def test_a_question_opens_as_an_episode_of_the_recipe_does(
    embedded_pair: ModelPair, name: str
) -> None:
    """The system prompt, the words around the question, and the pace of a video."""
    model = ReplayChatModel(pair=embedded_pair, recipe=name)
    protocol = model.renderer.protocol
    media: list[tuple[list[Any], Any]] = [([PICTURES[0]], None)]
    if protocol.videos:
        media.append(([], CLIP))
    for images, video in media:
        asked: list[AnyMessage] = [question(model, "What is it?", images, video=video)]
        signatures = [convert_to_openai_tool(tool) for tool in protocol_tools(model)]
        conversation = model.renderer.conversation(
            from_langchain(asked, model.renderer), signatures
        )
        references = [model.store.put(picture) for picture in images]
        path = None if video is None else str(video)
        assert conversation == protocol.open("What is it?", references, path)


def crop_call(model: ReplayChatModel, args: dict[str, Any], name: str = "zoom") -> list[AnyMessage]:
    call = AIMessage("", tool_calls=[{"name": name, "args": args, "id": "1"}])
    return [question(model, "?", [PICTURES[0]]), call]


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"bbox_2d": BOX, "self": 1}, "unknown argument 'self'"),
        ({"bbox_2d": BOX, "config": 1}, "unknown argument 'config'"),
        ({"bbox_2d": BOX, "run_manager": 1}, "unknown argument 'run_manager'"),
        ({"bbox_2d": "all"}, "a box is four numbers"),
        ({}, "argument 'bbox_2d' is missing"),
    ],
)
def test_the_model_reads_what_was_wrong_with_its_call(
    embedded_pair: ModelPair, args: dict[str, Any], error: str
) -> None:
    model = model_for(embedded_pair, "embedded")
    (result,) = run_tools(model, crop_call(model, args))
    assert result.status == "error"
    assert error in result.content


@pytest.mark.parametrize("protocol", sorted({SCRIPTS[name].protocol for name in NAMED}))
def test_the_model_reads_that_there_is_no_picture(embedded_pair: ModelPair, protocol: str) -> None:
    model = model_for(embedded_pair, protocol)
    for tool in protocol_tools(model):
        required = tool.tool_call_schema["required"]  # type: ignore[index]
        args = {name: [0.1, 0.1, 0.5, 0.5] if name == "bbox_2d" else 1 for name in required}
        call = AIMessage("", tool_calls=[{"name": tool.name, "args": args, "id": "1"}])
        (result,) = run_tools(model, [HumanMessage("What is it?"), call])
        assert result.status == "error"
        assert re.search(r"there (is|are) no (image|video)", result.content)


def test_a_model_cannot_forge_what_the_graph_knows(embedded_pair: ModelPair) -> None:
    model = model_for(embedded_pair, "embedded")
    forged = {"bbox_2d": BOX, "messages": [HumanMessage("another")], "runtime": 1}
    (result,) = run_tools(model, crop_call(model, forged))
    assert result.status == "success"
    assert result.artifact["source"] == model.store.put(PICTURES[0])


def test_tools_run_in_asynchronous_graphs_too(embedded_pair: ModelPair) -> None:
    model = model_for(embedded_pair, "embedded")
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode(protocol_tools(model)))
    graph.add_edge(START, "tools")

    def last(args: dict[str, Any]) -> Any:
        start: Any = {"messages": crop_call(model, args)}
        return asyncio.run(graph.compile().ainvoke(start))["messages"][-1]

    assert "unknown argument 'self'" in last({"bbox_2d": BOX, "self": 1}).content
    crop = last({"bbox_2d": BOX})
    assert crop.content == [{"type": "image", "url": f"visreplay:{crop.artifact['images'][0]}"}]


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
    reference = model.store.put(PICTURES[1])
    assert last_question(model.renderer, history) == ("Three?", [reference], [])
    (result,) = run_tools(model, [*history, call])
    assert isinstance(result, ToolMessage)
    assert result.artifact["source"] == reference
