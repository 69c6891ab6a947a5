"""What replay did, on the custom stream of every graph that a policy writes in."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph
from shared import MakeAgent

from visreplay.agent import ReplayChatModel, protocol_tools, question
from visreplay.agent.policy.replay_policy import ReplayPolicy
from visreplay.replay_core import Method, ModelPair, embedded_config
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split

SEARCH = get_task("visual-search-medium").sample(Split.TUNING + 1)


@pytest.fixture
def model(embedded_pair: ModelPair) -> ReplayChatModel:
    return ReplayChatModel(
        pair=embedded_pair,
        replay=embedded_config(Method.TOKEN),
        protocol="embedded",
        max_new_tokens=96,
    )


def opened(model: ReplayChatModel) -> dict[str, list[HumanMessage]]:
    return {"messages": [question(model, SEARCH.question, SEARCH.images)]}


def check(events: list[dict[str, Any]], replays: list[dict[str, Any] | None]) -> None:
    """Two turns' events, the second of which read the crop alone."""
    assert [event["type"] for event in events] == ["replay", "replay"]
    assert [event["step"] for event in events] == [0, 1]
    assert [event["replay"] for event in events] == replays
    assert [event["replay"]["new_visual_tokens"] for event in events] == [64, 36]
    first, second = events
    assert first["known_tokens"] == 0
    assert first["context_tokens"] < second["known_tokens"] < second["context_tokens"]
    assert len(str(events)) < 2000


def test_our_own_graph(make_agent: MakeAgent) -> None:
    agent = make_agent()
    start = agent.start(SEARCH.question, images=SEARCH.images)
    events, end = [], None
    for mode, event in agent.graph.stream(start, stream_mode=["custom", "values"]):
        if mode == "custom":
            assert isinstance(event, dict)
            events.append(event)
        else:
            end = event
    assert isinstance(end, dict)
    check(events, [step["replay"] for step in end["steps"]])


def test_a_turn_without_replay_has_an_event_too(make_agent: MakeAgent) -> None:
    agent = make_agent(Method.NONE)
    start = agent.start(SEARCH.question, images=SEARCH.images)
    events: list[Any] = list(agent.graph.stream(start, stream_mode="custom"))
    assert [event["replay"] for event in events] == [None, None]
    assert all(event["context_tokens"] > event["known_tokens"] for event in events)


def split_stream(parts: list[tuple[str, Any]]) -> tuple[list[dict[str, Any]], list[AIMessageChunk]]:
    """The events, and the policy's chunks, of a stream in both modes.

    What replay did comes before the first token of its turn.
    """
    events = [part for mode, part in parts if mode == "custom"]
    written = [(mode, part[0]) for mode, part in parts if mode == "messages"]
    chunks = [chunk for _, chunk in written if isinstance(chunk, AIMessageChunk)]
    order = []
    for mode, part in parts:
        kind = "replay" if mode == "custom" else type(part[0]).__name__
        if not order or order[-1] != kind:
            order.append(kind)
    assert order == ["replay", "AIMessageChunk", "ToolMessage", "replay", "AIMessageChunk"]
    return events, chunks


def replays_of(chunks: list[AIMessageChunk]) -> list[dict[str, Any] | None]:
    return [
        chunk.response_metadata["replay"] for chunk in chunks if "replay" in chunk.response_metadata
    ]


def test_create_agent(model: ReplayChatModel) -> None:
    agent = create_agent(model, tools=protocol_tools(model))
    events, chunks = split_stream(
        list(agent.stream(opened(model), stream_mode=["messages", "custom"]))
    )
    check(events, replays_of(chunks))


def test_create_agent_in_an_event_loop(model: ReplayChatModel) -> None:
    agent = create_agent(model, tools=protocol_tools(model))

    async def play() -> list[tuple[str, Any]]:
        stream = agent.astream(opened(model), stream_mode=["messages", "custom"])
        return [part async for part in stream]

    events, chunks = split_stream(asyncio.run(play()))
    check(events, replays_of(chunks))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_turns_that_are_not_streamed(model: ReplayChatModel, asynchronous: bool) -> None:
    """`invoke` in a thread of the pool, and `ainvoke`, which hands its work to one."""

    async def later(state: MessagesState) -> dict[str, list[BaseMessage]]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def now(state: MessagesState) -> dict[str, list[BaseMessage]]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("policy", later if asynchronous else now)
    graph.add_edge(START, "policy")
    compiled = graph.compile()

    async def play() -> list[Any]:
        stream = compiled.astream(opened(model), stream_mode=["custom", "values"])
        return [part async for part in stream]

    parts = asyncio.run(play())
    (event,) = [part for mode, part in parts if mode == "custom"]
    answer = parts[-1][1]["messages"][-1]
    assert isinstance(answer, AIMessage)
    assert event["replay"] == answer.response_metadata["replay"]
    assert event["context_tokens"] == answer.usage_metadata["input_tokens"]  # type: ignore[index]


def test_a_batch_has_one_event(make_agent: MakeAgent) -> None:
    agent = make_agent()
    policy = agent.policy
    assert isinstance(policy, ReplayPolicy)
    messages = agent.start(SEARCH.question, images=SEARCH.images)["messages"]

    def batch(state: MessagesState) -> dict[str, list[BaseMessage]]:
        turns = policy.act_together([(messages, seed) for seed in (1, 2)])
        return {"messages": [AIMessage(turn.text) for turn in turns]}

    graph = StateGraph(MessagesState)
    graph.add_node("batch", batch)
    graph.add_edge(START, "batch")
    (event,) = graph.compile().stream({"messages": []}, stream_mode="custom")
    assert isinstance(event, dict)
    assert event["step"] == 0


def test_outside_of_a_run_nothing_happens(model: ReplayChatModel) -> None:
    messages = opened(model)["messages"]
    alone = model.invoke(messages).content
    assert RunnableLambda(lambda _: model.invoke(messages).content).invoke(0) == alone
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(model.invoke, messages).result().content == alone

    async def later() -> object:
        return (await model.ainvoke(messages)).content

    assert asyncio.run(later()) == alone
