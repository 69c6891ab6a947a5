"""The agent for LangGraph's server and Studio: messages in, messages out (`langgraph dev`).

`langgraph.json` names `agent`, which loads the embedded pair, or what the environment names:

    VISREPLAY_POLICY     folder or hub id of the policy
    VISREPLAY_BASE       of the base that it was trained from
    VISREPLAY_PROTOCOL   how the policy calls tools and answers; by default, by its name
    VISREPLAY_METHOD     token (the default), state or none
    VISREPLAY_IMAGES     folder where images are kept; by default they live in memory, and threads
                         that outlive the server lose theirs
    VISREPLAY_DEVICE     as `load_pair` takes it; by default a GPU if there is one
"""

import asyncio
import os
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Checkpointer

from visreplay.agent.langchain.chat_model import ReplayChatModel
from visreplay.agent.langchain.protocol_tools import episode_messages, protocol_tools
from visreplay.agent.protocols import PROTOCOLS, guess_protocol
from visreplay.replay_core import EMBEDDED, Method, ReplayConfig, embedded_config
from visreplay.replay_core.embedded_pair import EMBEDDED_NAMES
from visreplay.tools import ImageStore

ChatGraph = CompiledStateGraph[MessagesState, None, MessagesState, MessagesState]

_loading = threading.Lock()


def chat_graph(model: ReplayChatModel, checkpointer: Checkpointer = None) -> ChatGraph:
    """The agent as a graph over messages: the policy, and the tools that it was trained on.

    Every human message is a question of its own, about its images or, if it has none, those that
    were sent last: it is opened in the dialect's words, and earlier questions are not shown to the
    policy, which was trained on single ones. Images are sent as base64 or data URIs, in LangChain's
    or OpenAI's form, and tools give theirs by reference (`visreplay:...`).

    Args:
        model: Writes the turns.
        checkpointer: Any of LangGraph's.

    Raises:
        ValueError: If the dialect's calls are not LangChain's.
    """
    dialect = PROTOCOLS[model.protocol]
    if not dialect.named_calls:
        raise ValueError(
            f"the {model.protocol} protocol calls no tools by name, so that messages cannot hold "
            "its calls: use VisualAgent"
        )
    tools = protocol_tools(model)
    seeing = model.bind_tools(tools)

    def policy(state: MessagesState) -> dict[str, list[BaseMessage]]:
        return {"messages": [seeing.invoke(episode_messages(model, state["messages"]))]}

    def mend(state: MessagesState) -> dict[str, list[BaseMessage]]:
        """Tell the policy what was wrong with a call that cannot be read."""
        (wrong,) = _last(state).invalid_tool_calls
        error = str(wrong["error"])
        return {"messages": [ToolMessage(error, tool_call_id=wrong["id"], status="error")]}

    def onwards(state: MessagesState) -> Literal["tools", "mend", "end"]:
        turns = 0
        for message in reversed(state["messages"]):
            if isinstance(message, HumanMessage):
                break
            turns += isinstance(message, AIMessage)
        if turns >= dialect.max_steps:
            return "end"
        if _last(state).invalid_tool_calls:
            return "mend"
        return "tools" if _last(state).tool_calls else "end"

    graph = StateGraph(MessagesState)
    graph.add_node("policy", policy)
    graph.add_node("tools", ToolNode(tools))
    graph.add_node("mend", mend)
    graph.add_edge(START, "policy")
    graph.add_conditional_edges("policy", onwards, {"tools": "tools", "mend": "mend", "end": END})
    graph.add_edge("tools", "policy")
    graph.add_edge("mend", "policy")
    return graph.compile(checkpointer=checkpointer, name="visreplay")


def model_of(environment: Mapping[str, str]) -> ReplayChatModel:
    """Load what an environment names (see the top of this file).

    Raises:
        ValueError: If a variable has no meaning.
    """
    given = {
        name: environment.get(f"VISREPLAY_{name}") or None
        for name in ("POLICY", "BASE", "PROTOCOL", "METHOD", "IMAGES", "DEVICE")
    }
    method = given["METHOD"] or Method.TOKEN
    if method not in list(Method):
        raise ValueError(f"VISREPLAY_METHOD is {method!r}; it is one of {', '.join(Method)}")
    policy = given["POLICY"]
    images = given["IMAGES"]
    store = ImageStore(Path(images) if images else None, memory_bytes=2**30, forgetful=True)
    if policy is None:
        return ReplayChatModel.from_pretrained(
            str(EMBEDDED / "policy"),
            given["BASE"] or str(EMBEDDED / "base"),
            replay=embedded_config(Method(method)),
            load_options={"device": given["DEVICE"] or "cpu"},
            protocol=given["PROTOCOL"] or "embedded",
            model_name=EMBEDDED_NAMES[0],
            max_new_tokens=128,
            store=store,
        )
    return ReplayChatModel.from_pretrained(
        policy,
        given["BASE"],
        replay=ReplayConfig(Method(method)),
        load_options={"device": given["DEVICE"] or "auto"},
        protocol=given["PROTOCOL"] or guess_protocol(policy),
        store=store,
    )


async def agent() -> ChatGraph:
    """The graph that `langgraph.json` names; the pair is loaded once, beside the event loop."""
    return await asyncio.to_thread(_served)


def _served() -> ChatGraph:
    with _loading:
        return _loaded()


@cache
def _loaded() -> ChatGraph:
    return chat_graph(model_of(os.environ))


def _last(state: MessagesState) -> AIMessage:
    message = state["messages"][-1]
    assert isinstance(message, AIMessage)
    return message
