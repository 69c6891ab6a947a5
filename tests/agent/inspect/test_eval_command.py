"""The command `inspect eval` on the embedded pair, beside our own agent."""

from pathlib import Path

import pytest
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    ContentImage,
    ContentReasoning,
)
from inspect_samples import SAMPLES, inspect_eval
from shared import MakeAgent

from visreplay.agent import Trajectory
from visreplay.agent.inspect.solver import TRAJECTORY
from visreplay.replay_core import Method

STATE = ("-M", "method=state")


@pytest.fixture
def trajectories(make_agent: MakeAgent) -> list[Trajectory]:
    """The episodes of our own agent."""
    agent = make_agent(Method.STATE)
    return [agent.run(sample.question, images=sample.images) for sample in SAMPLES]


def thoughts(messages: list[ChatMessage]) -> list[str]:
    return [
        part.reasoning
        for message in messages
        if isinstance(message, ChatMessageAssistant)
        for part in message.content
        if isinstance(part, ContentReasoning)
    ]


def pictures(message: ChatMessage) -> list[ContentImage]:
    return [part for part in message.content if isinstance(part, ContentImage)]


def test_the_solver_plays_the_episodes_of_our_own_agent(
    tmp_path: Path, trajectories: list[Trajectory]
) -> None:
    options = (*STATE, "--solver", "visreplay/agent", "-S", "max_steps=6")
    log = inspect_eval(tmp_path, "search_task.py@search", *options)["search"]
    assert log.status == "success" and log.samples is not None
    assert log.eval.model == "visreplay/embedded"
    right = sum(t.answer == sample.answer for t, sample in zip(trajectories, SAMPLES, strict=True))
    assert log.results is not None and right > 0
    assert log.results.scores[0].metrics["mean"].value == right / len(SAMPLES)
    samples = {str(sample.id): sample for sample in log.samples}
    for ours, played in zip(SAMPLES, trajectories, strict=True):
        theirs = samples[ours.sample_id]
        assert theirs.output.completion == played.answer
        assert theirs.output.stop_reason == "stop"
        assert (theirs.output.metadata or {})["stop_reason"] == "answered"
        assert (theirs.output.metadata or {})["replay"][0]["method"] == "state"
        record = theirs.store[TRAJECTORY]
        assert [step["text"] for step in record["steps"]] == [s["text"] for s in played.steps]
        # The viewer shows question, turn, result and turn.
        assert [m.role for m in theirs.messages] == ["user", "assistant", "tool", "assistant"]
        assert thoughts(theirs.messages) == [step["thought"] for step in played.steps]
        assert len(pictures(theirs.messages[0])) == len(pictures(theirs.messages[2])) == 1
    usage = log.stats.model_usage["visreplay/embedded"]
    assert usage.output_tokens == sum(
        len(message["token_ids"])
        for played in trajectories
        for message in played.messages
        if message["role"] == "assistant"
    )


def test_the_model_in_inspects_loop_answers_as_our_own_agent(
    tmp_path: Path, trajectories: list[Trajectory]
) -> None:
    options = (*STATE, "--temperature", "0")
    (log,) = inspect_eval(tmp_path, "search_task.py@search_with_tools", *options).values()
    assert log.status == "success" and log.samples is not None
    samples = {str(sample.id): sample for sample in log.samples}
    for ours, played in zip(SAMPLES, trajectories, strict=True):
        theirs = samples[ours.sample_id]
        assert theirs.output.completion == f"<answer>{played.answer}</answer>"
        assert thoughts(theirs.messages) == [step["thought"] for step in played.steps]
        call, result = theirs.messages[1:3]
        assert isinstance(call, ChatMessageAssistant) and isinstance(result, ChatMessageTool)
        (made,), use = call.tool_calls or [], played.steps[0]["tool_calls"][0]
        assert (made.function, made.arguments) == (use["name"], use["arguments"])
        # The second turn reads the crop alone: the rest was read before.
        assert theirs.output.usage is not None
        assert (theirs.output.usage.input_tokens_cache_read or 0) > theirs.output.usage.input_tokens
        assert (theirs.output.metadata or {})["replay"]["new_visual_tokens"] > 0
