"""Several calls in one turn, and turns that the token limit cuts off."""

import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from PIL import Image
from scripted import ScriptedPolicy

from visreplay.agent import (
    EpisodeState,
    Limits,
    Loop,
    PolicyTurn,
    StopReason,
    build_graph,
    completed_steps,
    get_protocol,
)
from visreplay.agent.episode.loop import apply_update
from visreplay.tools import ImageStore, TokenGrid

PICTURE = Image.linear_gradient("L").convert("RGB").resize((1000, 800))


def look(*bbox: float, index: int = 0) -> str:
    arguments = {"bbox_2d": bbox, "label": "x", "img_idx": index}
    call = json.dumps({"name": "image_zoom_in_tool", "arguments": arguments})
    return f"<tool_call>{call}</tool_call>"


def started(protocol: str, limits: Limits = Limits()) -> tuple[Loop, EpisodeState]:
    tool_protocol = get_protocol(protocol, TokenGrid(), ImageStore())
    loop = Loop(tool_protocol, limits)
    return loop, loop.start("What?", images=[tool_protocol.store.put(PICTURE)])


def play(turns: Sequence[str], limits: Limits = Limits()) -> EpisodeState:
    loop, start = started("qwen3-vl", limits)
    graph = build_graph(ScriptedPolicy(turns), loop.protocol, limits)
    return graph.invoke(start)  # type: ignore[return-value]


def written(text: str, reason: Literal["stop", "length"] = "stop") -> PolicyTurn:
    message: Any = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    return PolicyTurn(text, message, reason, None, 0.0)


def test_each_call_is_run_and_an_error_is_shown_in_its_place() -> None:
    state = play([look(0, 0, 500, 500) + look(9, 9, 0, 0) + look(0, 0, 100, 100), "a dog"])
    first, second, third = state["steps"][0]["tool_calls"]
    assert first["observation"] is not None and third["observation"] is not None
    assert second["observation"] is None
    assert "no area" in (second["error"] or "")
    assert state["steps"][0]["error"] is None
    kinds = [
        part["text"] if part["type"] == "text" else part["type"]
        for part in state["messages"][3]["content"]
    ]
    assert kinds == [
        *("<tool_response>\n", "image", "\n</tool_response>", "\n"),
        f"<tool_response>\nTool Execution Error {second['error']}\n</tool_response>",
        *("\n", "<tool_response>\n", "image", "\n</tool_response>"),
    ]
    assert state["answer"] == "a dog"


def test_of_a_turn_with_an_unreadable_call_none_is_run() -> None:
    state = play([look(0, 0, 500, 500) + "<tool_call>{]</tool_call>", "a dog"])
    step = state["steps"][0]
    assert step["tool_calls"] == []
    assert "Call 2 of 2 cannot be read, so none was run" in (step["error"] or "")
    assert len(state["messages"][3]["content"]) == 1


def test_every_call_of_a_turn_counts_as_an_image() -> None:
    turn = look(0, 0, 500, 500) + look(0, 0, 400, 400) + look(0, 0, 300, 300)
    state = play([turn], Limits(max_images=3))
    assert state["stop_reason"] == StopReason.MAX_IMAGES
    assert [use["observation"] is None for use in state["steps"][0]["tool_calls"]] == [
        False, False, False
    ]  # fmt: skip
    state = play([turn], Limits(max_images=2))
    assert [use["observation"] is None for use in state["steps"][0]["tool_calls"]] == [
        False, False, True
    ]  # fmt: skip
    assert len(state["messages"]) == 3


def test_every_call_that_was_run_has_its_time() -> None:
    turn = look(0, 0, 500, 500) + look(9, 9, 0, 0) + look(0, 0, 400, 400) + look(0, 0, 300, 300)
    state = play([turn], Limits(max_images=2))
    ran, failed, last, never = state["steps"][0]["tool_calls"]
    assert ran["seconds"] > 0 and last["seconds"] > 0
    assert failed["error"] and failed["seconds"] >= 0
    assert "seconds" not in never


def test_repeats_within_a_turn_and_over_turns_are_counted() -> None:
    once = look(0, 0, 500, 500)
    assert play([once * 3])["stop_reason"] == StopReason.REPEATED_CALL
    state = play([once + look(0, 0, 9, 9), look(0, 0, 8, 8) + once, once])
    assert (state["stop_reason"], len(state["steps"])) == (StopReason.REPEATED_CALL, 3)
    assert play([once * 2, "a dog"])["stop_reason"] == StopReason.ANSWERED


def test_a_step_is_completed_with_its_last_call() -> None:
    loop, before = started("qwen3-vl")
    turn = written(look(0, 0, 500, 500) + look(9, 9, 0, 0))
    called = apply_update(before, loop.after_turn(before, turn))
    assert completed_steps(called, before) == []
    assert len(completed_steps(apply_update(called, loop.after_call(called)), called)) == 1


CUT = {
    "embedded": '<think>a</think><tool_call>{"name": "zo',
    "deepeyes": '<think>a</think><tool_call>{"name": "image_zo',
    "pixel-reasoner": 'Closer. <tool_call>{"name": "crop_im',
    "mini-o3": '<think>a</think><grounding>{"bbox_2d": [0, 0',
    "qwen3-vl": look(0, 0, 500, 500) + '<tool_call>{"name": "image_zo',
    "hermes": '<tool_call>{"name": "zoom", "argum',
}


@pytest.mark.parametrize("protocol", CUT)
def test_a_call_cut_off_at_the_token_limit_ends_the_episode(protocol: str) -> None:
    loop, start = started(protocol)
    state = apply_update(start, loop.after_turn(start, written(CUT[protocol], "length")))
    assert state["stop_reason"] == StopReason.MAX_TOKENS
    assert state["steps"][0]["tool_calls"] == []
    assert state["answer"] is None


@pytest.mark.parametrize("protocol", ["deepeyes", "qwen3-vl", "hermes"])
def test_free_text_cut_off_at_the_token_limit_is_no_answer(protocol: str) -> None:
    loop, start = started(protocol)
    for reason, answer in (("length", None), ("stop", "I think that")):
        update = loop.after_turn(start, written("I think that", reason))  # type: ignore[arg-type]
        assert update["answer"] == answer


OPEN = {
    "embedded": ["<think>a</think><answer>12"],
    "deepeyes": ["<think>a</think><answer>12", "<answer>9</answer> No: <answer>12</ans"],
    "video-r1": ["<think>a</think> <answer>12"],
    "pixel-reasoner": [r"So \boxed{12", r"\boxed{9}, no, \boxed{12", r"\boxed{\frac{1}{2}"],
    "boxed": [r"<think>\boxed{9}</think>So \boxed{12", r"\boxed{9}, no, \boxed{12"],
    "mini-o3": ["<think>a</think><answer>12"],
    "hermes": ["<think>a</think><answer>12"],
}
CLOSED = {name: "<think>a</think><answer>12</answer> It" for name in OPEN} | {
    "pixel-reasoner": r"So \boxed{12}. It",
    "boxed": r"<think>a</think>So \boxed{12}. It",
}


@pytest.mark.parametrize(("protocol", "text"), [(p, t) for p, ts in OPEN.items() for t in ts])
def test_an_answer_cut_off_at_the_token_limit_is_none(protocol: str, text: str) -> None:
    loop, start = started(protocol)
    update = loop.after_turn(start, written(text, "length"))
    assert (update["answer"], update["stop_reason"]) == (None, StopReason.MAX_TOKENS)


@pytest.mark.parametrize("protocol", CLOSED)
def test_an_answer_that_was_closed_before_the_token_limit_is_one(protocol: str) -> None:
    loop, start = started(protocol)
    update = loop.after_turn(start, written(CLOSED[protocol], "length"))
    assert (update["answer"], update["stop_reason"]) == ("12", StopReason.ANSWERED)


def test_an_answer_that_is_left_open_by_a_turn_that_ended_is_one() -> None:
    loop, start = started("deepeyes")
    update = loop.after_turn(start, written("<think>a</think><answer>12"))
    assert (update["answer"], update["stop_reason"]) == ("12", StopReason.ANSWERED)


def test_a_protocol_may_allow_fewer_images_than_the_limits() -> None:
    loop, state = started("pixel-reasoner", Limits(max_steps=99))
    shots = 0
    while not state["stop_reason"]:
        box = [0.1, 0.1, 0.5, 0.5 + shots / 100]
        call = {
            "name": "crop_image_normalized",
            "arguments": {"bbox_2d": box, "target_image": 1},
        }
        turn = written(f"<tool_call>{json.dumps(call)}</tool_call>")
        state = apply_update(state, loop.after_turn(state, turn))
        state = apply_update(state, loop.after_call(state))
        shots += 1
    assert (state["stop_reason"], shots) == (StopReason.MAX_IMAGES, 16)
