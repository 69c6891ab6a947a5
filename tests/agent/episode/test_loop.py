import json

import pytest
from PIL import Image
from scripted import ScriptedPolicy

from visreplay.agent import (
    EpisodeState,
    Limits,
    Loop,
    StopReason,
    build_graph,
    completed_steps,
    get_protocol,
    load_recipe,
)
from visreplay.tools import ImageStore, TokenGrid

PICTURE = Image.linear_gradient("L").convert("RGB").resize((1000, 800))


def call(*bbox: float, name: str = "image_zoom_in_tool") -> str:
    arguments = json.dumps({"name": name, "arguments": {"bbox_2d": bbox}})
    return f"<think>closer</think><tool_call>{arguments}</tool_call>"


ANSWER = "<think>I see</think><answer>a dog</answer>"


def play(turns: list[str], limits: Limits = Limits()) -> EpisodeState:
    protocol = get_protocol("deepeyes", TokenGrid(), ImageStore())
    start = Loop(protocol, limits).start("What?", images=[protocol.store.put(PICTURE)])
    graph = build_graph(ScriptedPolicy(turns), protocol, limits)
    return graph.invoke(start)  # type: ignore[return-value]


def test_an_episode_calls_looks_and_answers() -> None:
    state = play([call(100, 100, 500, 400), ANSWER])
    first, second = state["steps"]
    (use,) = first["tool_calls"]
    assert use["name"] == "image_zoom_in_tool"
    assert use["arguments"] == {"bbox_2d": [100, 100, 500, 400]}
    assert use["observation"] is not None
    assert use["observation"]["box"] == [100, 100, 500, 400]
    assert use["observation"]["source"] == state["images"][0]
    assert second["thought"] == "I see"
    assert (state["answer"], state["stop_reason"]) == ("a dog", StopReason.ANSWERED)


def test_the_observation_is_framed_as_the_policy_expects() -> None:
    state = play([call(100, 100, 500, 400), ANSWER])
    observation = state["messages"][3]
    assert observation["role"] == "user"
    first, picture, suffix, last = observation["content"]
    assert (first["text"], last["text"]) == ("<tool_response>", "</tool_response>")  # type: ignore[typeddict-item]
    assert picture["type"] == "image"
    assert suffix["text"] == load_recipe("deepeyes").texts.suffix  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (call(500, 400, 100, 100), "bbox_2d|box"),
        (call(5000, 5000, 6000, 6000), "1000"),
        (call(5, 5, 5, 9), "no area"),
        (call(0, 0, 9, 9, name="rotate"), "rotate"),
        ("<tool_call>{]</tool_call>", "JSON"),
    ],
)
def test_the_policy_reads_what_was_wrong_and_the_episode_continues(turn: str, words: str) -> None:
    state = play([turn, ANSWER])
    step = state["steps"][0]
    error = step["error"] or step["tool_calls"][0]["error"]
    assert error is not None
    assert any(word in error for word in words.split("|")), error
    assert state["messages"][3]["content"] == [{"type": "text", "text": f"Error: {error}"}]
    assert state["answer"] == "a dog"


def test_steps_are_limited() -> None:
    calls = [call(0, 0, 100 + side, 100) for side in range(9)]
    state = play(calls, Limits(max_steps=3))
    assert state["stop_reason"] == StopReason.MAX_STEPS
    assert len(state["steps"]) == 3


def test_the_protocol_has_a_limit_of_its_own() -> None:
    state = play([call(0, 0, 100 + side, 100) for side in range(12)])
    assert (state["stop_reason"], len(state["steps"])) == (StopReason.MAX_STEPS, 11)


def test_the_same_call_again_and_again_ends_the_episode() -> None:
    state = play([call(0, 0, 100, 100)] * 9, Limits(max_repeats=2))
    assert (state["stop_reason"], len(state["steps"])) == (StopReason.REPEATED_CALL, 3)


def test_images_are_limited() -> None:
    calls = [call(0, 0, 100 + side, 100) for side in range(9)]
    state = play(calls, Limits(max_images=2))
    assert (state["stop_reason"], len(state["steps"])) == (StopReason.MAX_IMAGES, 2)


def test_a_turn_of_neither_call_nor_answer_ends_the_episode() -> None:
    assert play(["<think>hm</think>"])["stop_reason"] == StopReason.NO_ANSWER


@pytest.mark.parametrize("limit", ["max_steps", "max_images", "max_repeats"])
def test_limits_below_one_are_refused(limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} is 0"):
        Limits(**{limit: 0})


def test_the_state_holds_references_and_never_pixels() -> None:
    state = play([call(100, 100, 500, 400), ANSWER])
    assert len(json.dumps(state)) < 6_000


def test_steps_are_streamed_as_they_are_completed() -> None:
    protocol = get_protocol("deepeyes", TokenGrid(), ImageStore())
    before = Loop(protocol).start("What?", images=[protocol.store.put(PICTURE)])
    graph = build_graph(ScriptedPolicy([call(0, 0, 100, 100), ANSWER]), protocol)
    completed = []
    for state in graph.stream(before, stream_mode="values"):
        completed.append([step["index"] for step in completed_steps(state, before)])  # type: ignore[arg-type]
        before = state  # type: ignore[assignment]
    assert completed == [[], [], [0], [1]]


def test_a_script_that_is_too_short_says_so() -> None:
    with pytest.raises(IndexError, match="there is no turn 1: the script has 1"):
        play([call(0, 0, 100, 100)])
