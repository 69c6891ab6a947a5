"""The agent for LangGraph's server and Studio: messages in, messages out (`langgraph dev`).

`langgraph.json` names `agent`, which loads the embedded pair, or what the environment names:

    VISREPLAY_POLICY     folder or hub id of the policy
    VISREPLAY_BASE       folder or hub id of the base that it was trained from
    VISREPLAY_PROTOCOL   how the policy calls tools and answers; by default, by its name
    VISREPLAY_RECIPE     recipe of the checkpoint, a name or a file; by default, by its name
    VISREPLAY_REPLAY     token (the default), state or none
    VISREPLAY_IMAGES     folder where images are kept; by default they live in memory, and threads
                         that outlive the server lose theirs
    VISREPLAY_DEVICE     device, as in `load_pair`; by default a GPU if there is one
"""

import asyncio
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NotRequired

import torch
from cachetools import LRUCache
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from visreplay.agent.chat.chat_policy import STORE_BYTES
from visreplay.agent.chat.renderer import MessageError
from visreplay.agent.episode.limits import Limits
from visreplay.agent.episode.loop import Loop, apply_update, turn_seed
from visreplay.agent.episode.state_shapes import checked_state
from visreplay.agent.langchain.chat_model import ReplayChatModel
from visreplay.agent.langchain.messages import TOKEN_IDS, content_blocks
from visreplay.agent.langchain.protocol_tools import last_question
from visreplay.agent.policy.replay_policy import PolicyTurn
from visreplay.agent.protocols import ToolProtocol
from visreplay.agent.protocols.turns import positions
from visreplay.agent.state import EpisodeState, Scene
from visreplay.replay_core import Method
from visreplay.tools import ImageStore

_loading = threading.Lock()


class ChatState(MessagesState):
    """The messages that clients see, and the episode of the last question behind them."""

    episode: NotRequired[EpisodeState]


class WrittenTurns:
    """The turns that this process wrote, by digests of their tokens.

    A client may write the state of its thread. Tokens that come from there are trusted if they are
    among these turns; others could be special, and add messages that no one sees.
    """

    def __init__(self) -> None:
        self._digests: LRUCache[bytes, None] = LRUCache(100_000)
        self._lock = threading.Lock()

    def add(self, token_ids: Sequence[int]) -> None:
        """Remember a turn; the least recently used go first."""
        with self._lock:
            self._digests[self._digest(token_ids)] = None

    def __contains__(self, token_ids: object) -> bool:
        """Tell whether this process wrote such a turn."""
        with self._lock:
            return self._digests.get(self._digest(token_ids), self) is None

    @staticmethod
    def _digest(token_ids: object) -> bytes:
        return hashlib.sha256(json.dumps(token_ids).encode()).digest()


ChatGraph = CompiledStateGraph[ChatState, None, MessagesState, MessagesState]


def chat_graph(
    model: ReplayChatModel, checkpointer: Checkpointer = None, limits: Limits = Limits()
) -> ChatGraph:
    """Compile the agent as a graph over messages: the policy, and the tools of its protocol.

    Every human message is a question of its own, about its images or, if it has none, about the
    images that were sent last. The policy reads the question as its protocol opens it, and no
    earlier questions: it was trained on single ones. Images are sent as base64 or data URIs, in
    LangChain's or OpenAI's form, and tools return theirs by reference (`visreplay:...`).

    The episode is the one that `VisualAgent` plays: both are driven by `Loop`. Its seed is the
    model's; if that is None, each question draws one from torch's global generator.

    Args:
        model: Writes the turns.
        checkpointer: Any of LangGraph's.
        limits: Where to stop.

    Raises:
        ValueError: Messages cannot hold the protocol's calls.
    """
    protocol = model.renderer.protocol
    if not protocol.named_calls and protocol.recipe.limits.max_steps > 1:
        raise ValueError(
            f"the {protocol.name} protocol calls no tools by name, so that messages cannot hold "
            "its calls: use VisualAgent"
        )
    loop = Loop(protocol, limits)
    written = WrittenTurns()

    def policy(state: ChatState) -> dict[str, Any]:
        messages = state["messages"]
        episode = state.get("episode")
        if messages and isinstance(messages[-1], HumanMessage):
            episode = _start(model, loop, messages)
        # A client may write the state. Its tokens are read only if they are known (`WrittenTurns`).
        if episode is None or checked_state(episode, tokens=False)["stop_reason"]:
            raise MessageError("there is no question: send a human's message")
        reply, turn = _write_turn(model, episode, messages, written)
        return {
            "messages": [reply],
            "episode": apply_update(episode, loop.after_turn(episode, turn)),
        }

    def tools(state: ChatState) -> dict[str, Any]:
        reply = state["messages"][-1]
        assert isinstance(reply, AIMessage)
        # No episode has a file here: a name in the state is the client's.
        episode = checked_state(state["episode"], tokens=False)
        before: EpisodeState = {**episode, "video": None}
        after = apply_update(before, loop.after_call(before))
        return {"messages": list(_results(protocol, reply, before, after)), "episode": after}

    def route(state: ChatState) -> str:
        return "stopped" if state["episode"]["stop_reason"] else "running"

    graph = StateGraph(ChatState, input_schema=MessagesState, output_schema=MessagesState)
    graph.add_node("policy", policy)
    graph.add_node("tools", tools)
    graph.add_edge(START, "policy")
    graph.add_conditional_edges("policy", route, {"running": "tools", "stopped": END})
    graph.add_conditional_edges("tools", route, {"running": "policy", "stopped": END})
    return graph.compile(checkpointer=checkpointer, name="visreplay")


def _start(model: ReplayChatModel, loop: Loop, messages: Sequence[BaseMessage]) -> EpisodeState:
    """Start the episode of the last question."""
    text, images, videos = last_question(model.renderer, messages)
    seed = int(torch.randint(2**31, ())) if model.seed is None else model.seed
    episode = loop.start(text, images=images, seed=seed)
    # Videos come with the message, as frames; no file is left that could be looked into.
    *opening, user = episode["messages"]
    episode["messages"] = [*opening, {**user, "content": [*videos, *user["content"]]}]
    return episode


def _write_turn(
    model: ReplayChatModel,
    episode: EpisodeState,
    messages: Sequence[BaseMessage],
    written: WrittenTurns,
) -> tuple[AIMessage, PolicyTurn]:
    """Let the chat model answer the episode's messages, so that clients can stream its tokens."""
    began = time.perf_counter()
    turns = [message for message in messages if isinstance(message, AIMessage)]
    replies = iter(turns[len(turns) - len(episode["steps"]) :])
    conversation: list[BaseMessage] = []
    generated: list[list[int] | None] = []
    for message in episode["messages"]:
        if message["role"] == "assistant":
            if (earlier := next(replies, None)) is None:
                raise MessageError("a turn of the policy is missing: ask the question again")
            conversation.append(earlier)
            token_ids = message.get("token_ids")
            generated.append(token_ids if token_ids in written else None)
        else:
            kind = SystemMessage if message["role"] == "system" else HumanMessage
            conversation.append(kind(content_blocks(message["content"])))
    seed = turn_seed(episode["seed"], len(episode["steps"]))
    reply = model.invoke(conversation, seed=seed, generated=generated)
    turn = PolicyTurn.from_tokens(
        reply.additional_kwargs[TOKEN_IDS],
        model.pair.tokenizer,
        reply.response_metadata["turn_finish_reason"],
        replay=reply.response_metadata["replay"],
        seconds=time.perf_counter() - began,
    )
    written.add(turn.message["token_ids"])
    return reply, turn


def _results(
    protocol: ToolProtocol, reply: AIMessage, before: EpisodeState, after: EpisodeState
) -> Iterator[ToolMessage]:
    """Make the messages about the last step's calls, for clients.

    The policy reads the episode's own messages. A call that its protocol finds where the chat
    model looks for none (in a thought that is not closed) has no message.
    """
    step = after["steps"][-1]
    for wrong in reply.invalid_tool_calls:
        yield ToolMessage(step["error"] or "", tool_call_id=wrong["id"], status="error")
    places = positions(step, Scene.of(before))
    for call, use, place in zip(reply.tool_calls, step["tool_calls"], places, strict=False):
        common: dict[str, Any] = {"name": call["name"], "tool_call_id": call["id"]}
        observation = use["observation"]
        if observation is not None:
            content = content_blocks(protocol.content(observation, place))
            yield ToolMessage(content, artifact=observation, **common)
        else:
            error = use["error"] or f"not run: the episode ended ({after['stop_reason']})"
            yield ToolMessage(error, status="error", **common)


def load_model(environment: Mapping[str, str]) -> ReplayChatModel:
    """Load the checkpoints that an environment names (see the top of this file).

    Raises:
        ValueError: A variable has a value that is not known.
    """
    settings = {
        name: environment.get(f"VISREPLAY_{name}") or None
        for name in ("POLICY", "BASE", "PROTOCOL", "RECIPE", "REPLAY", "IMAGES", "DEVICE")
    }
    replay = settings["REPLAY"] or Method.TOKEN
    if replay not in list(Method):
        raise ValueError(f"VISREPLAY_REPLAY is {replay!r}; it is one of {', '.join(Method)}")
    images = settings["IMAGES"]
    return ReplayChatModel.from_pretrained(
        settings["POLICY"] or "embedded",
        settings["BASE"],
        replay=replay,
        load_options={"device": settings["DEVICE"] or "auto"},
        protocol=settings["PROTOCOL"] or "auto",
        recipe=settings["RECIPE"] or None,
        store=ImageStore(
            Path(images) if images else None, memory_bytes=STORE_BYTES, forgetful=True
        ),
    )


async def agent() -> ChatGraph:
    """Give the graph that `langgraph.json` names; the pair is loaded once, in a thread."""
    return await asyncio.to_thread(_load_once)


def _load_once() -> ChatGraph:
    with _loading:
        return _load()


@cache
def _load() -> ChatGraph:
    return chat_graph(load_model(os.environ))
