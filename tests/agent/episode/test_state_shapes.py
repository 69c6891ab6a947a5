"""A checkpointer's states may be damaged, edited, or another program's: the error says where."""

import copy
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from shared import MakeAgent

from visreplay.agent import EpisodeState, VisualAgent
from visreplay.agent.episode.rollouts import play_rollouts
from visreplay.agent.langchain.chat_model import ReplayChatModel
from visreplay.agent.langchain.graph_server import chat_graph
from visreplay.replay_core import ContextError, ModelPair
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Split

SEARCH = get_task("visual-search-medium").sample(Split.TUNING + 1)
QUESTION, TURN, STEP = ("messages", 0), ("messages", 1), ("steps", 0)
PART = (*QUESTION, "content", 0)
USE = (*STEP, "tool_calls", 0)
MISSING = object()

TAMPERED: list[tuple[tuple[str | int, ...], object, str]] = [
    (("question",), MISSING, "question: field required"),
    (("images",), [5], r"images\.0: input should be an instance of str"),
    (("video",), 5, "video: input"),
    (("seed",), "x", "seed: input should be a valid integer"),
    (("seed",), -1, "seed: input should be greater"),
    (("answer",), 5, "answer: input"),
    (("stop_reason",), "bored", "stop_reason: input should be 'answered', 'max_steps'"),
    (("messages",), "x", "messages: input should be a valid list"),
    (QUESTION, "x", r"messages\.0: input should be a valid dictionary"),
    ((*QUESTION, "role"), "alien", r"messages\.0\.role: input should be 'system', 'user'"),
    ((*QUESTION, "content"), MISSING, r"messages\.0\.content: field required"),
    ((*QUESTION, "content"), "x", r"messages\.0\.content: input should be a valid list"),
    ((*PART, "type"), "smell", r"messages\.0\.content\.0: input tag 'smell'"),
    ((*PART, "image"), 5, r"messages\.0\.content\.0\.image"),
    ((*QUESTION, "content", 1, "text"), 5, r"messages\.0\.content\.1\.text"),
    (
        PART,
        {"type": "video", "frames": [], "times": []},
        r"video: .* needs a frame",
    ),
    (PART, {"type": "video", "frames": ["a"], "times": []}, "1 frames have 0 times"),
    (PART, {"type": "video", "frames": ["a"], "times": [float("nan")]}, r"times\.0: .* finite"),
    ((*TURN, "token_ids"), ["a"], r"messages\.1\.token_ids\.0: input should be a valid integer"),
    ((*TURN, "token_ids"), [-1], r"messages\.1\.token_ids\.0"),
    ((*TURN, "token_ids"), [2**63], r"messages\.1\.token_ids\.0"),
    (("steps",), [{"thought": "x"}], r"steps\.0\.index: field required"),
    ((*STEP, "index"), 7, r"steps: .* numbers \[7\]"),
    ((*STEP, "text"), 5, r"steps\.0\.text"),
    ((*STEP, "replay"), MISSING, r"steps\.0\.replay: field required"),
    ((*STEP, "replay", "blocks"), [5], r"steps\.0\.replay\.blocks\.0"),
    ((*USE, "arguments"), "x", r"steps\.0\.tool_calls\.0\.arguments"),
    ((*USE, "observation"), {"images": []}, r"tool_calls\.0\.observation\.text: field required"),
]


@pytest.fixture
def agent(make_agent: MakeAgent) -> VisualAgent:
    return make_agent(checkpointer=InMemorySaver())


def interrupted(agent: VisualAgent) -> EpisodeState:
    """The state after the policy's first turn, before its call is run."""
    stream = agent.stream(agent.start(SEARCH.question, images=SEARCH.images))
    next(stream)
    state = next(stream)
    stream.close()
    return state


def tampered(state: EpisodeState, path: tuple[str | int, ...], value: object) -> Any:
    changed: Any = copy.deepcopy(state)
    *way, last = path
    inner = changed
    for key in way:
        inner = inner[key]
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return changed


def thread(name: str) -> RunnableConfig:
    return {"configurable": {"thread_id": name}}


@pytest.mark.parametrize(("path", "value", "message"), TAMPERED)
def test_a_state_of_another_shape_is_refused(
    agent: VisualAgent, path: tuple[str | int, ...], value: object, message: str
) -> None:
    message = rf"not the state of an episode \(.*{message}.*start the episode anew"
    wrong = tampered(interrupted(agent), path, value)
    agent.graph.update_state(thread("saved"), wrong, as_node="policy")
    with pytest.raises(ValueError, match=message):
        list(agent.stream(None, thread_id="saved"))
    with pytest.raises(ValueError, match=message):
        agent.graph.invoke(wrong, thread("new"))
    with pytest.raises(ValueError, match=message):
        play_rollouts(agent.loop, [wrong], agent.policy)


def test_the_graph_alone_refuses_it_before_any_move(agent: VisualAgent) -> None:
    wrong = tampered(interrupted(agent), (*QUESTION, "role"), "alien")
    for name in ("policy", "call"):
        agent.graph.update_state(thread(name), wrong, as_node=name)
        with pytest.raises(ValueError, match="not the state of an episode"):
            agent.graph.invoke(None, thread(name))


def test_tokens_outside_the_vocabulary_are_refused(agent: VisualAgent) -> None:
    wrong = tampered(interrupted(agent), (*TURN, "token_ids"), [10**9])
    agent.graph.update_state(thread("saved"), wrong, as_node="policy")
    with pytest.raises(ContextError, match="1000000000 is not in the vocabulary"):
        list(agent.stream(None, thread_id="saved"))


def test_a_call_needs_a_turn(agent: VisualAgent) -> None:
    wrong = tampered(interrupted(agent), ("steps",), [])
    agent.graph.update_state(thread("saved"), wrong, as_node="policy")
    with pytest.raises(ValueError, match=r"no turn whose calls .*start the episode anew"):
        list(agent.stream(None, thread_id="saved"))


def test_what_is_right_goes_on(agent: VisualAgent) -> None:
    """Fields of other programs are left alone."""
    state = interrupted(agent)
    state = tampered(state, (*QUESTION, "note"), {"by": "another program"})
    agent.graph.update_state(thread("saved"), state, as_node="policy")
    *_, end = agent.stream(None, thread_id="saved")
    assert end["answer"] == SEARCH.answer
    (again,) = play_rollouts(agent.loop, [end], agent.policy)
    assert again == end


def test_langgraphs_server_refuses_a_state_that_a_client_spoilt(
    embedded_pair: ModelPair,
) -> None:
    model = ReplayChatModel(pair=embedded_pair, replay="none", protocol="embedded", seed=0)
    graph = chat_graph(model, InMemorySaver())
    content: list[Any] = [model.image(SEARCH.images[0]), {"type": "text", "text": SEARCH.question}]
    stream = graph.stream({"messages": [HumanMessage(content)]}, thread("a"))  # type: ignore[arg-type]
    next(stream)
    stream.close()
    before = graph.get_state(thread("a"))
    wrong = tampered(before.values["episode"], (*QUESTION, "content"), MISSING)
    for node in ("policy", "tools"):
        fork = graph.update_state(before.config, {"episode": wrong}, as_node=node)
        with pytest.raises(ValueError, match=r"messages\.0\.content: field required"):
            graph.invoke(None, fork)
