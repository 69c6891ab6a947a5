"""The same seed gives the same episode, whatever drives the loop."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from rollouts import play
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
SEEDS = {1.3: (17, 18, 32, 33), 2.0: (8, 9, 22, 23)}
"""Seeds by temperature, in pairs of neighbours. `test_the_seeds_give_turns_of_many_kinds`."""

Driver = Callable[[VisualAgent, Sequence[int]], list[EpisodeState | Trajectory]]


def by_graph(agent: VisualAgent, seeds: Sequence[int]) -> list[Any]:
    return [agent.run(SEARCH.question, images=SEARCH.images, seed=seed) for seed in seeds]


def by_rollouts(agent: VisualAgent, seeds: Sequence[int]) -> list[Any]:
    return agent.rollouts(SEARCH.question, seeds, images=SEARCH.images)  # type: ignore[return-value]


def by_chat_graph(agent: VisualAgent, seeds: Sequence[int]) -> list[Any]:
    states = []
    for seed in seeds:
        model = chat_model(agent, seed)
        graph = chat_graph(model, InMemorySaver(), agent.limits)
        thread: Any = {"configurable": {"thread_id": "1"}}
        graph.invoke({"messages": [question(model)]}, thread)  # type: ignore[arg-type]
        states.append(graph.get_state(thread).values["episode"])
    return states


def by_recipe(agent: VisualAgent, seeds: Sequence[int]) -> list[Any]:
    encoder = ContextEncoder(agent.pair.processor, agent.store, grid=agent.protocol.grid)
    rollouts = play(
        agent.pair.policy.model,
        encoder,
        agent.loop,
        [agent.start(SEARCH.question, images=SEARCH.images, seed=seed) for seed in seeds[::2]],
        group=2,
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
    ("temperature", "limits"),
    [
        (1.3, Limits()),
        (1.3, Limits(max_steps=1)),
        (1.3, Limits(max_images=1)),
        (2.0, Limits()),
    ],
    ids=["no limit", "max_steps", "max_images", "hot"],
)
@pytest.mark.parametrize("driver", [by_rollouts, by_chat_graph, by_recipe])
def test_every_driver_plays_the_episode_that_the_graph_plays(
    make_agent: MakeAgent, driver: Driver, temperature: float, limits: Limits
) -> None:
    def agent() -> VisualAgent:
        return make_agent(Method.NONE, temperature=temperature, limits=limits)

    seeds = SEEDS[temperature]
    expected = [summary(trajectory) for trajectory in by_graph(agent(), seeds)]
    assert [summary(episode) for episode in driver(agent(), seeds)] == expected


@pytest.mark.parametrize("method", [Method.TOKEN, Method.STATE])
@pytest.mark.parametrize("driver", [by_rollouts, by_chat_graph])
def test_with_replay_too(make_agent: MakeAgent, driver: Driver, method: Method) -> None:
    def agent() -> VisualAgent:
        return make_agent(method, temperature=1.3)

    expected = [summary(trajectory) for trajectory in by_graph(agent(), SEEDS[1.3])]
    assert [summary(episode) for episode in driver(agent(), SEEDS[1.3])] == expected


def test_the_seeds_give_turns_of_many_kinds(make_agent: MakeAgent) -> None:
    """Turns that are read back wrongly show in the next one: the kinds count in earlier turns."""
    kinds: set[str] = set()
    for temperature, seeds in SEEDS.items():
        agent = make_agent(Method.NONE, temperature=temperature)
        special = set(agent.pair.tokenizer.all_special_tokens)
        for trajectory in by_graph(agent, seeds):
            kinds.add(trajectory.stop_reason)
            turns = [m for m in trajectory.messages if m["role"] == "assistant"]
            for step, turn in zip(trajectory.steps[:-1], turns, strict=False):
                kinds.add((step["error"] or "call").split(":")[0])
                names = agent.pair.tokenizer.convert_ids_to_tokens(turn["token_ids"][:-1])
                kinds |= special.intersection(names)
    assert kinds >= {
        *(
            "call",
            "The tool call is not closed with </tool_call>.",
            "The tool call is not valid JSON",
        ),
        *("<|image_pad|>", "<|vision_start|>", "<|endoftext|>"),
        *(StopReason.ANSWERED, StopReason.NO_ANSWER),
    }


@pytest.mark.parametrize("driver", [by_graph, by_rollouts, by_chat_graph, by_recipe])
def test_a_turn_that_is_cut_off_ends_the_episode(make_agent: MakeAgent, driver: Driver) -> None:
    for episode in driver(make_agent(Method.NONE, max_new_tokens=12), (0, 1)):
        *_, answer, reason = summary(episode)
        assert (answer, reason) == (None, StopReason.MAX_TOKENS)


def test_a_trajectory_names_its_driver(make_agent: MakeAgent) -> None:
    agent = make_agent(Method.NONE)
    assert agent.run(SEARCH.question, images=SEARCH.images).settings["driver"] == "graph"
    (rollout,) = agent.rollouts(SEARCH.question, [0], images=SEARCH.images)
    assert rollout.settings["driver"] == "rollouts"
