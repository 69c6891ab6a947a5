"""The episode as a LangGraph graph: policy -> call -> policy -> ... -> answer."""

from collections.abc import Mapping
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from visreplay.agent.episode.limits import Limits
from visreplay.agent.episode.loop import Loop, apply_update, turn_seed
from visreplay.agent.episode.state_shapes import checked_state
from visreplay.agent.policy.replay_policy import Policy
from visreplay.agent.protocols import ToolProtocol
from visreplay.agent.state import EpisodeState

EpisodeGraph = CompiledStateGraph[EpisodeState, None, EpisodeState, EpisodeState]


def build_graph(
    policy: Policy,
    protocol: ToolProtocol,
    limits: Limits = Limits(),
    checkpointer: Checkpointer = None,
) -> EpisodeGraph:
    """Compile the graph of an episode.

    Its input is `Loop(protocol, limits).start(...)`. With a checkpointer, an episode that was
    interrupted after any move continues when the graph is invoked with None and the same thread, in
    another process too: the state holds all that the policy needs. Another start on the same thread
    is a new episode, which replaces the state of the last one.

    Args:
        policy: Writes the turns.
        protocol: Parses the turns and runs the calls.
        limits: Where to stop.
        checkpointer: Any of LangGraph's.
    """
    loop = Loop(protocol, limits)

    def policy_turn(state: EpisodeState) -> dict[str, Any]:
        state = checked_state(state)
        seed = turn_seed(state["seed"], len(state["steps"]))
        turn = policy.act(state["messages"], seed=seed)
        return changed(state, loop.after_turn(state, turn))

    def call(state: EpisodeState) -> dict[str, Any]:
        state = checked_state(state)
        return changed(state, loop.after_call(state))

    def changed(state: EpisodeState, update: dict[str, Any]) -> dict[str, Any]:
        after: Mapping[str, Any] = apply_update(state, update)
        return {name: after[name] for name in update}

    def route(state: EpisodeState) -> str:
        return "stopped" if state["stop_reason"] else "running"

    graph = StateGraph(EpisodeState)
    graph.add_node("policy", policy_turn)
    graph.add_node("call", call)
    graph.add_edge(START, "policy")
    graph.add_conditional_edges("policy", route, {"running": "call", "stopped": END})
    graph.add_conditional_edges("call", route, {"running": "policy", "stopped": END})
    return graph.compile(checkpointer=checkpointer)
