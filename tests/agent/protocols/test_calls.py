"""Calls as models write them: each is run, or the model is told why not; none becomes an answer."""

import json
from typing import Any

import pytest
from PIL import Image

from visreplay.agent.protocols import (
    MAX_TURN_CHARACTERS,
    PROTOCOLS,
    ToolProtocol,
    get_protocol,
)
from visreplay.agent.protocols.calls import arguments_object
from visreplay.agent.state import Scene
from visreplay.tools import ImageStore, TokenGrid, ToolError

OBJECT = '{"name": "zoom", "arguments": {"bbox_2d": [0, 0, 9, 9]}}'
CALL = f"<tool_call>{OBJECT}</tool_call>"
OTHER = '{"name": "other", "arguments": {}}'
ZOOM = {"name": "zoom", "arguments": {"bbox_2d": [0, 0, 9, 9]}}
ZOOM_IN = "image_zoom_in_tool"
NAMED = [name for name, protocol in PROTOCOLS.items() if protocol.named_calls]


def protocol_of(name: str) -> ToolProtocol:
    return get_protocol(name, TokenGrid(), ImageStore())


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(
    "written",
    [
        f"<think>I look closer. {CALL}",
        f"<think>I look closer. {OBJECT}",
        f"<think>Use <tool_call> here: <tool_call>\n{OBJECT}\n",
        f"<think>a</think> {OBJECT}",
        OBJECT,
        f"I zoom.\n{OBJECT}\n",
        f"{OBJECT}</tool_call>",
        f"<tool_call>\n{OBJECT}",
        f"```json\n{OBJECT}\n```",
        f"```\n{CALL}\n```",
        f"`{CALL}`",
        f"<tool_call>\n```json\n{OBJECT}\n```\n</tool_call>",
        f"The <tool_call> tag is next. {CALL}",
        f"Between <tool_call> and </tool_call>: {CALL}",
        f"By <tool_call></tool_call>, or `<tool_call>...</tool_call>`: {CALL}",
        f"The form is\n```\n<tool_call>{OTHER}</tool_call>\n```\nso {CALL}",
        f"<think>By <tool_call>{OTHER}</tool_call>?</think>{CALL}",
        f"<answer>B</answer> {CALL}",
        f'{{"arguments": {json.dumps(ZOOM["arguments"])}, "name": "zoom"}}',
        f'{{"function": {OBJECT}}}',
        f"<tool_call>[{OBJECT}]</tool_call>",
        f"<tool_call>zoom: {OBJECT}</tool_call>",
        CALL.replace('"zoom"', '" zoom\\n"'),
    ],
)
def test_a_call_is_run_however_it_is_tagged(name: str, written: str) -> None:
    turn = protocol_of(name).read(written)
    if name == "pixel-reasoner" and ("function" in written or f"[{OBJECT}" in written):
        assert turn.error is not None and "at the very end" in turn.error
        return
    assert turn.calls == (ZOOM,)
    assert turn.calls_at is not None
    assert "bbox_2d" not in written[: turn.calls_at] and "bbox_2d" not in turn.thought


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(
    ("written", "error"),
    [
        (f"<think>By {CALL} or in another way?", "thought|the very end"),
        (f"<think>By {CALL}?</think>", "thought|the very end"),
        (f"{CALL[:-14]}</tool_call>", "not valid JSON"),
        (OBJECT[:-1], "not valid JSON"),
        (OBJECT.replace('"name"', '"name""'), "not valid JSON"),
        (OBJECT.replace('"name"', '"name"{'), "not valid JSON"),
        (OBJECT.replace('"arguments":', '"arguments"'), "not valid JSON"),
        (f"<tool_call>{OBJECT}}}</tool_call>", "Extra data"),
        (f"<tool_call>{OBJECT}\n{OBJECT}</tool_call>", "Extra data"),
        ("<tool_call>\n</tool_call>", "not valid JSON"),
        ("<tool_call>[1]</tool_call>", "one JSON object"),
        ('{"name": "zoom", "parameters": {"a": 1}}', "one JSON object"),
        (f'{{"id": 1, {OBJECT[1:]}', "one JSON object"),
        ('<tool_call>{"name": " ", "arguments": {}}</tool_call>', "one JSON object"),
        ('<tool_call>{"name": "zoom", "arguments": "x"}</tool_call>', "one JSON object"),
        ("<tool_call>zoom(bbox_2d=[0, 0, 9, 9])", "not closed"),
        ("<tool_call>zoom(bbox_2d=[0, 0, 9, 9])</tool_call>", "not valid JSON"),
        ("<tool_call>{'name' 'zoom'}</tool_call>", "not valid JSON"),
        ("zoom [0, 0, 9, 9]</tool_call>", "no tool call before it"),
        ("<tool_call>", "not closed"),
        (f'<tool_call>{{"name": "a", "arguments": {"[" * 40}{"]" * 40}}}</tool_call>', "nest"),
    ],
)
def test_a_call_that_cannot_be_run_is_reported(name: str, written: str, error: str) -> None:
    turn = protocol_of(name).read(written)
    assert (turn.calls, turn.answer) == ((), None)
    assert turn.error is not None and any(part in turn.error for part in error.split("|"))


@pytest.mark.parametrize("name", ["hermes", "qwen3-vl"])
def test_of_several_calls_one_cannot_be_read(name: str) -> None:
    for broken in ("<tool_call>{]</tool_call>", "<tool_call>zoom(1)</tool_call>", OBJECT[:-1]):
        turn = protocol_of(name).read(f"{CALL}{broken}{CALL}")
        assert not turn.calls and turn.answer is None
        assert turn.error is not None and "Call 2 of" in turn.error


@pytest.mark.parametrize("name", ["hermes", "qwen3-vl", "deepeyes"])
@pytest.mark.parametrize(
    "written",
    [
        '{"name": TOOL, "bbox_2d": [0, 0, 9, 9]}',
        '{"tool": TOOL, "args": {"bbox_2d": [0, 0, 9, 9]}}',
        '{"action": "search", "action_input": "kites"}',
        "{'name': TOOL, 'input': {}}",
        '[{"type": "function", "function": {"name": TOOL, "args": {}}}]',
        '{"name": "search"}, "arguments": {"words": "kites"}}',
        '{"TOOL": {"bbox_2d": [0, 0, 9, 9]}}',
        '{"TOOL": {"box": [0, 0, 9, 9]}}',
        "{“name”: “TOOL”, “arguments”: {“bbox_2d”: [0, 0, 9, 9]}}",
        "{“name”: “search”, “arguments”: {“words”: “kites”}}",
        'Let me zoom in. {"tool": TOOL, "args": {"bbox_2d": [0, 0, 9, 9]}}',
        'I look. {"function": TOOL, "arguments": {"bbox_2d": [0, 0, 9, 9]}} Then I answer.',
        'I look. {"function": TOOL, "arguments": {"bbox_2d": [0, 0, 9, 9]',
        'I search. {"function": "search", "arguments": {"words": "kites"}}',
        "TOOL(bbox_2d=[0, 0, 9, 9])",
        "functions.TOOL(bbox_2d=[0, 0, 9, 9])",
        "[TOOL(bbox_2d=[0, 0, 9, 9])]",
        "```python\nTOOL(bbox_2d=[0, 0, 9, 9])\n```",
        "Let me zoom in.\n```python\na = TOOL(\n  bbox_2d=[0, 0, 9, 9],\n)\n```\nThen I answer.",
        "I call TOOL([0, 0, 9, 9]).",
        '<function=TOOL>{"bbox_2d": [0, 0, 9, 9]}</function>',
        "<function=TOOL>\n<parameter=bbox_2d>[0, 0, 9, 9]</parameter>\n</function>",
        '<invoke name="TOOL"></invoke>',
        "<TOOL>\n<bbox_2d>[0, 0, 9, 9]</bbox_2d>\n</TOOL>",
        '<name>TOOL</name>\n<arguments>{"bbox_2d": [0, 0, 9, 9]}</arguments>',
        'TOOL\n```json\n{"bbox_2d": [0, 0, 9, 9]}\n```',
        'Action: TOOL\nAction Input: {"bbox_2d": [0, 0, 9, 9]}',
        "**Action:** `TOOL`\n**Action Input:** the sign",
        "tool: TOOL\nargs:\n  bbox_2d: [0, 0, 9, 9]",
        '<think>Closer.</think>\n{"tool": TOOL, "args": {}}',
    ],
)
def test_a_turn_that_calls_in_a_form_that_is_not_read_is_no_answer(name: str, written: str) -> None:
    protocol = protocol_of(name)
    tool = protocol.own_tools[0]["function"]["name"]
    turn = protocol.read(written.replace(" TOOL,", f' "{tool}",').replace("TOOL", tool))
    assert (turn.calls, turn.answer) == ((), None)
    assert turn.error is not None
    expected = "search" if "search" in written else tool
    assert f"looks like a call of {expected}" in turn.error and "<tool_call>" in turn.error


@pytest.mark.parametrize(
    ("name", "written", "tool"),
    [
        ("qwen3-vl", '{"bbox_2d": [0, 0, 9, 9], "label": "kite", "img_idx": 0}', ZOOM_IN),
        ("qwen3-vl", 'I look: [{"bbox_2d": [0, 0, 9, 9], "img_idx": 0}]', ZOOM_IN),
        ("hermes", '{"bbox_2d": [0, 0, 9, 9], "image": 1}', "zoom"),
        ("hermes", '{"times": [1, 2.5]}', "sample_frames"),
    ],
)
def test_the_arguments_of_a_tool_alone_are_no_answer(name: str, written: str, tool: str) -> None:
    turn = protocol_of(name).read(written)
    assert turn.answer is None
    assert f"looks like a call of {tool}" in (turn.error or "")


@pytest.mark.parametrize("name", ["hermes", "qwen3-vl", "deepeyes"])
@pytest.mark.parametrize(
    "written",
    [
        '{"name": "Bob", "age": 3}',
        '{"name": "Bob", "input": "a"}',
        '{"action": "running"}',
        '[{"bbox_2d": [1, 2, 3, 4]}]',
        '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "kite"}]\n```',
        '{"bbox_2d": [1, 2, 3, 4]}',
        'There: {"bbox_2d": [1, 2, 3, 4], "label": "kite"}',
        '{"bbox_2d": [1, 2, 3, 4], "label": "kite", "score": 0.9}',
        '{"count": 3, "image": 1}',
        "The zoom: 3x. Its function: zoom",
        "I could zoom (twice) or crop, or use image_zoom_in_tool.",
        "I called image_zoom_in_tool(bbox_2d=[0, 0, 9, 9]) and zoom(bbox_2d=[0, 0, 9, 9]): a kite.",
        'By {"tool": "zoom", "args": {}} and image_zoom_in_tool([0, 0, 9, 9]): \\boxed{B}',
        r"$\frac{a}{b}$, {x: 1",
        "{name}",
        "a {b} c",
        "zoom (twice)",
        "print(zoom)",
        "f(x) = 2",
    ],
)
def test_other_texts_are_answers(name: str, written: str) -> None:
    assert protocol_of(name).read(written).answer == written


@pytest.mark.parametrize("name", ["hermes", "qwen3-vl", "deepeyes"])
@pytest.mark.parametrize(
    "piece",
    [
        *(
            "zoom(",
            "zoom(()",
            "zoom(x ",
            "zoom{",
            "zoom\n,",
            "{a:",
            '{"a":{"b":',
            "``` ",
            "\n",
            " ",
        ),
        *("\n\naction: zoom\n", "name: ", "<a name=", '{"a": 1}', "image_zoom_in_tool `"),
    ],
)
def test_any_turn_is_searched_in_a_moment(name: str, piece: str) -> None:
    """A quadratic search of one of these would take minutes."""
    protocol_of(name).read(piece * (MAX_TURN_CHARACTERS // len(piece)))


@pytest.mark.parametrize("name", NAMED)
def test_a_second_open_thought_is_a_thought(name: str) -> None:
    protocol = protocol_of(name)
    turn = protocol.read(f"<think>{CALL}</think>\n<think>more")
    assert (turn.calls, turn.answer) == ((), None)
    assert turn.error is not None and ("thought" in turn.error or "the very end" in turn.error)
    assert protocol.read("<think>a</think><think>more").answer is None
    turn = protocol.read(f"<think>a</think><think>more {CALL}")
    assert turn.calls == (ZOOM,)


@pytest.mark.parametrize("name", ["hermes", "deepeyes", "embedded"])
def test_an_answer_may_hold_a_call(name: str) -> None:
    protocol = protocol_of(name)
    assert protocol.read(f"<answer>{OBJECT}</answer>").answer == OBJECT
    assert protocol.read("I need no <tool_call>. <answer>B</answer>").answer == "B"
    assert protocol.read("<answer>B</answer></tool_call>").answer == "B"
    assert protocol.read("<think>It is B. <answer>B</answer>").answer == "B"
    # What a call says is no answer.
    spelled = '{"name": "final", "arguments": {"text": "<answer> </tool_call> <tool_call>"}}'
    (call,) = protocol.read(f"<tool_call>{spelled}</tool_call>").calls
    assert call["arguments"] == {"text": "<answer> </tool_call> <tool_call>"}


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        ("", {}),
        (" \n", {}),
        (None, {}),
        ({}, {}),
        ("null", {}),
        ("{}", {}),
        ('{"a": 1}', {"a": 1}),
        (json.dumps('{"a": 1}'), {"a": 1}),
        ("[1]", None),
        ("a", None),
        (7, None),
        ([], None),
        ("{'a': 1}", None),
    ],
)
def test_arguments_in_every_form(value: Any, arguments: dict[str, Any] | None) -> None:
    assert arguments_object(value) == arguments
    written = json.dumps({"name": "zoom", "arguments": value})
    turn = protocol_of("hermes").read(f"<tool_call>{written}</tool_call>")
    if arguments is None:
        assert turn.error is not None
    else:
        assert [call["arguments"] for call in turn.calls] == [arguments]


GROUNDING = '{"bbox_2d": [0, 0, 1, 1], "source": "original_image"}'


@pytest.mark.parametrize(
    "written",
    [
        f"<think>A sign. <grounding>{GROUNDING}</grounding>",
        f"<think>A sign. <grounding>{GROUNDING}",
        GROUNDING,
        f"{GROUNDING}</grounding>",
        f"By <grounding>: <grounding>{GROUNDING}</grounding>",
        f"```json\n{GROUNDING}\n```",
    ],
)
def test_a_grounding_is_run_however_it_is_tagged(written: str) -> None:
    (call,) = protocol_of("mini-o3").read(written).calls
    assert call == {"name": "grounding", "arguments": json.loads(GROUNDING)}


def test_a_protocol_without_tools_says_so() -> None:
    (call,) = protocol_of("video-r1").read(CALL).calls
    with pytest.raises(ToolError, match="available: none"):
        protocol_of("video-r1").run(call, Scene())
    assert "no tools" in (protocol_of("boxed").read(CALL).error or "")
    assert protocol_of("boxed").read(rf"{CALL} \boxed{{4}}").answer == "4"


def crop(name: str, size: tuple[int, int], bbox: list[float]) -> list[int]:
    """The box, in pixels, that a protocol crops a picture to."""
    protocol = protocol_of(name)
    tool, more = {
        "hermes": ("zoom", {}),
        "deepeyes": ("image_zoom_in_tool", {}),
        "qwen3-vl": ("image_zoom_in_tool", {"label": "x", "img_idx": 0}),
        "embedded": ("zoom", {}),
        "mini-o3": ("grounding", {"source": "original_image"}),
    }[name]
    scene = Scene((protocol.store.put(Image.new("RGB", size)),))
    call: Any = {"name": tool, "arguments": {"bbox_2d": bbox, **more}}
    return protocol.run(call, scene)["box"]


@pytest.mark.parametrize("name", ["hermes", "deepeyes", "qwen3-vl"])
@pytest.mark.parametrize(
    "bbox", [[0.1, 0.25, 0.3, 0.5], [0.0, 0.2, 1.0, 0.9], [0, 0, 1, 1], [0.5, 0.5, 1.01, 1.02]]
)
def test_shares_where_larger_numbers_are_meant_are_refused(name: str, bbox: list[float]) -> None:
    with pytest.raises(ToolError, match=r"in shares of the image, but here x goes from 0 to 1\d"):
        crop(name, (1120, 896), bbox)


def test_small_boxes_that_are_right_are_cropped() -> None:
    assert crop("deepeyes", (2, 2), [0, 0, 1, 1]) == [0, 0, 1, 1]
    assert crop("deepeyes", (1, 1), [0, 0, 0.5, 0.5]) == [0, 0, 1, 1]
    assert crop("deepeyes", (1120, 896), [0, 0, 2, 2]) == [0, 0, 2, 2]
    assert crop("embedded", (1120, 896), [0.1, 0.25, 0.3, 0.5]) == [14, 28, 42, 56]
    assert crop("mini-o3", (1120, 896), [0, 0, 1, 1.01]) == [0, 0, 1120, 896]


@pytest.mark.parametrize("bbox", [[0, 0, 300, 400], [0.5, 0.5, 2, 2]])
def test_pixels_where_shares_are_meant_are_refused(bbox: list[float]) -> None:
    with pytest.raises(ToolError, match="not in shares of the image: x goes from 0 to 1"):
        crop("mini-o3", (1120, 896), bbox)
