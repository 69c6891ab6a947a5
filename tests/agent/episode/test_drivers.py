"""The same seed gives the same episode, whatever drives the loop."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from shared import MakeAgent

from visreplay.agent import (
    EpisodeState,
    Limits,
    ReplayChatModel,
    StopReason,
    Trajectory,
    VisualAgent,
)
from visreplay.agent.langchain.graph_server import chat_graph
from visreplay.agent.policy.encoder import ContextEncoder
from visreplay.replay_core import Method
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split

SEARCH = get_task("visual-search-medium").sample(Split.TUNING + 1)
SEEDS = range(18, 22)
RECIPES = Path(__file__).parents[3] / "recipes"

Driver = Callable[[VisualAgent], list[EpisodeState | Trajectory]]


def by_graph(agent: VisualAgent) -> list[Any]:
    return [agent.run(SEARCH.question, images=SEARCH.images, seed=seed) for seed in SEEDS]


def by_rollouts(agent: VisualAgent) -> list[Any]:
    return agent.rollouts(SEARCH.question, SEEDS, images=SEARCH.images)  # type: ignore[return-value]


def by_chat_graph(agent: VisualAgent) -> list[Any]:
    states = []
    for seed in SEEDS:
        model = chat_model(agent, seed)
        graph = chat_graph(model, InMemorySaver(), agent.limits)
        thread: Any = {"configurable": {"thread_id": "1"}}
        graph.invoke({"messages": [question(model)]}, thread)  # type: ignore[arg-type]
        states.append(graph.get_state(thread).values["episode"])
    return states


def by_recipe(agent: VisualAgent) -> list[Any]:
    sys.path.insert(0, str(RECIPES))
    try:
        from rollouts import play
    finally:
        sys.path.remove(str(RECIPES))
    encoder = ContextEncoder(agent.pair.processor, agent.store, grid=agent.protocol.grid)
    rollouts = play(
        agent.pair.policy.model,
        encoder,
        agent.loop,
        [agent.start(SEARCH.question, images=SEARCH.images, seed=SEEDS[0])],
        group=len(SEEDS),
        temperature=agent.sampling.temperature,
        max_new_tokens=agent.sampling.max_new_tokens,
    )
    return [rollout.state for rollout in rollouts]


def chat_model(agent: VisualAgent, seed: int) -> ReplayChatModel:
    return ReplayChatModel(
        pair=agent.pair,
        replay=agent.replay,
        protocol=agent.protocol.name,
        temperature=agent.sampling.temperature,
        max_new_tokens=agent.sampling.max_new_tokens,
        seed=seed,
    )


def question(model: ReplayChatModel) -> HumanMessage:
    return HumanMessage([model.image(SEARCH.images[0]), {"type": "text", "text": SEARCH.question}])


def summary(episode: EpisodeState | Trajectory) -> Any:
    """Everything in an episode but times and reports on replay."""
    state = episode.to_json() if isinstance(episode, Trajectory) else episode
    steps = []
    for step in state["steps"]:
        uses = [{k: v for k, v in use.items() if k != "seconds"} for use in step["tool_calls"]]
        steps.append((step["index"], step["text"], step["thought"], uses, step["error"]))
    names = ("question", "images", "video", "seed", "answer", "stop_reason")
    return steps, list(state["messages"]), *(list_or_value(state[name]) for name in names)


def list_or_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    "limits",
    [Limits(), Limits(max_steps=1), Limits(max_images=1)],
    ids=["no limit", "max_steps", "max_images"],
)
@pytest.mark.parametrize("driver", [by_rollouts, by_chat_graph, by_recipe])
def test_every_driver_plays_the_episode_that_the_graph_plays(
    make_agent: MakeAgent, driver: Driver, limits: Limits
) -> None:
    def agent() -> VisualAgent:
        return make_agent(Method.NONE, temperature=1.3, limits=limits)

    expected = [summary(trajectory) for trajectory in by_graph(agent())]
    assert [summary(episode) for episode in driver(agent())] == expected
    texts = {str([step[1] for step in steps]) for steps, *_ in expected}
    assert len(texts) > 1, "the seeds make no difference"


@pytest.mark.parametrize("method", [Method.TOKEN, Method.STATE])
@pytest.mark.parametrize("driver", [by_rollouts, by_chat_graph])
def test_with_replay_too(make_agent: MakeAgent, driver: Driver, method: Method) -> None:
    def agent() -> VisualAgent:
        return make_agent(method, temperature=1.3)

    expected = [summary(trajectory) for trajectory in by_graph(agent())]
    assert [summary(episode) for episode in driver(agent())] == expected


@pytest.mark.parametrize("driver", [by_graph, by_rollouts, by_chat_graph, by_recipe])
def test_a_turn_that_is_cut_off_ends_the_episode(make_agent: MakeAgent, driver: Driver) -> None:
    for episode in driver(make_agent(Method.NONE, max_new_tokens=12)):
        *_, answer, reason = summary(episode)
        assert (answer, reason) == (None, StopReason.MAX_TOKENS)


def test_a_trajectory_names_its_driver(make_agent: MakeAgent) -> None:
    agent = make_agent(Method.NONE)
    assert agent.run(SEARCH.question, images=SEARCH.images).settings["driver"] == "graph"
    (rollout,) = agent.rollouts(SEARCH.question, [0], images=SEARCH.images)
    assert rollout.settings["driver"] == "rollouts"
