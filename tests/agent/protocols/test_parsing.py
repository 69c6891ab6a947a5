import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visreplay.agent.protocols import (
    MAX_TURN_CHARACTERS,
    PROTOCOLS,
    ParsedTurn,
    ToolProtocol,
    choose_recipe,
    get_protocol,
    guess_protocol,
    load_recipe,
)
from visreplay.agent.protocols.tolerant_json import tolerate
from visreplay.agent.state import Scene
from visreplay.replay_core import ConfigError
from visreplay.tools import ImageStore, TokenGrid, ToolError


def scene_of(protocol: ToolProtocol, *images: Image.Image) -> Scene:
    return Scene(tuple(map(protocol.store.put, images)))


@pytest.fixture
def deepeyes() -> ToolProtocol:
    return get_protocol("deepeyes", TokenGrid(), ImageStore())


@pytest.fixture
def embedded() -> ToolProtocol:
    return get_protocol("embedded", TokenGrid(28, 56 * 56, 224 * 224), ImageStore())


def test_a_call_after_thinking_is_read(deepeyes: ToolProtocol) -> None:
    turn = deepeyes.read(
        "<think>The sign is small.</think>\n<tool_call>\n"
        '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 300, 400]}}\n</tool_call>'
    )
    assert turn == ParsedTurn(
        "The sign is small.",
        ({"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 300, 400]}},),
    )


def test_the_recipe_says_which_of_several_calls_counts() -> None:
    first, last = (
        f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>' for name in "ab"
    )
    recipe = load_recipe("deepeyes")
    for calls, names in (("first", ["a"]), ("last", ["b"]), ("all", ["a", "b"])):
        chosen = replace(recipe, calls=calls)  # type: ignore[arg-type]
        turn = get_protocol(chosen, TokenGrid(), ImageStore()).read(f"{first}{last}")
        assert [call["name"] for call in turn.calls] == names


def test_calls_inside_the_thinking_are_thoughts(deepeyes: ToolProtocol) -> None:
    turn = deepeyes.read(
        '<think>maybe <tool_call>{"name": "x", "arguments": {}}</tool_call></think>'
        "<answer> yes </answer>"
    )
    assert not turn.calls
    assert turn.answer == "yes"


def test_an_answer_without_tags_is_an_answer_for_deepeyes(deepeyes: ToolProtocol) -> None:
    assert deepeyes.read("<think>easy</think> A red bus.").answer == "A red bus."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "one JSON object"),
        ('{"name": "x"}', "one JSON object"),
        ('{"name": 1, "arguments": {}}', "one JSON object"),
        ('{"name": "x", "arguments": [1]}', "one JSON object"),
        ('{"name": "x", "arguments": {}, "more": 1}', "one JSON object"),
        ('{"name": "x", "arguments": {"bbox_2d": [NaN, 0, 1, 1]}}', "NaN is not a JSON value"),
        ("[" * 50_000, "not valid JSON"),
        ("__import__('os')", "not valid JSON"),
    ],
)
def test_malformed_calls_are_errors(deepeyes: ToolProtocol, body: str, message: str) -> None:
    turn = deepeyes.read(f"<tool_call>{body}</tool_call>")
    assert not turn.calls
    assert turn.error is not None
    assert message in turn.error


def test_a_call_cut_off_by_the_token_limit_is_an_error(deepeyes: ToolProtocol) -> None:
    turn = deepeyes.read('<tool_call>{"name": "image_zoom_in_tool"')
    assert turn.error == "The tool call is not closed with </tool_call>."


def test_an_endless_turn_is_refused_unread(deepeyes: ToolProtocol) -> None:
    assert "characters" in (deepeyes.read("x" * (MAX_TURN_CHARACTERS + 1)).error or "")


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<grounding>",
        "</grounding>",
        "\\boxed{",
        "}",
        "<answer>",
        "</answer>",
        '{"name": "x"',
        "{",
    ]
)


@pytest.mark.parametrize(
    "body",
    [
        "{'name': 'zoom', 'arguments': {'label': 'the \"red\" sign\\'s', 'n': [1, 2,],},}",
        '{name: "zoom", arguments: {label: "the \\"red\\" sign\'s", n: [1, 2]}}',
        '{"name": "zoom", "arguments": {"label": "the \\"red\\" sign\'s", "n": [1, 2 , ]}}',
    ],
)
def test_qwen3_vl_reads_calls_that_json5_would_read(body: str) -> None:
    written = f"<tool_call>{body}</tool_call>"
    (call,) = get_protocol("qwen3-vl", TokenGrid(), ImageStore()).read(written).calls
    arguments = {"label": 'the "red" sign\'s', "n": [1, 2]}
    assert call == {"name": "zoom", "arguments": arguments}
    assert get_protocol("hermes", TokenGrid(), ImageStore()).read(written).error


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON_VALUES)
def test_the_tolerant_reading_leaves_json_as_it_is(value: object) -> None:
    assert json.loads(tolerate(json.dumps(value))) == value


@pytest.mark.parametrize("piece", ["'", "\\'", "a", ", ", '"\\', "{'a':"])
def test_the_tolerant_reading_takes_linear_time(piece: str) -> None:
    """Every quantifier is possessive; a quadratic reading of this would take minutes."""
    tolerate(piece * (MAX_TURN_CHARACTERS // len(piece)))


@given(
    st.lists(PIECES | st.text(max_size=20), max_size=12).map("".join), st.sampled_from([*PROTOCOLS])
)
def test_any_text_is_read_without_an_exception(written: str, name: str) -> None:
    turn = get_protocol(name, TokenGrid(), ImageStore()).read(written)
    assert sum(part is not None for part in (turn.calls or None, turn.answer, turn.error)) <= 1


ARGUMENTS = [
    "bbox_2d",
    "label",
    "around",
    "times",
    "image",
    "img_idx",
    "source",
    "target_image",
    "target_frames",
    "x",
]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=5) | st.dictionaries(st.text(max_size=5), children)
    ),
    max_leaves=8,
)


TOOLS = [
    "zoom",
    "crop",
    "sample_frames",
    "image_zoom_in_tool",
    "crop_image_normalized",
    "select_frames",
    "grounding",
]
# Wild values, and such as a tool may take.
BOXES = st.lists(st.floats(-0.5, 1.5) | st.integers(-10, 1100), min_size=4, max_size=4)
INDICES = st.integers(-1, 3) | st.sampled_from(["original_image", "observation_0"])


@given(
    st.sampled_from(TOOLS),
    st.dictionaries(st.sampled_from(ARGUMENTS), JSON_VALUES | BOXES | INDICES),
    st.sampled_from([*PROTOCOLS]),
    st.integers(1, 300),
)
def test_any_arguments_give_an_observation_or_a_tool_error(
    tool: str, arguments: dict[str, object], name: str, width: int
) -> None:
    protocol = get_protocol(name, TokenGrid(max_pixels=100_000), ImageStore())
    scene = scene_of(protocol, Image.new("RGB", (width, 61)))
    try:
        observation = protocol.run({"name": tool, "arguments": arguments}, scene)
    except ToolError as error:
        assert str(error)
    else:
        json.dumps(observation)
        assert all(reference in protocol.store for reference in observation["images"])


@given(
    BOXES,
    st.sampled_from([[], [1], [1, 2]]),
    st.sampled_from(
        [
            ("hermes", "zoom", {"image": 1}),
            ("qwen3-vl", "image_zoom_in_tool", {"img_idx": 0, "label": "x"}),
            ("deepeyes", "image_zoom_in_tool", {}),
            ("embedded", "zoom", {}),
            ("pixel-reasoner", "crop_image_normalized", {"target_image": 1}),
            ("mini-o3", "grounding", {"source": "original_image"}),
        ]
    ),
    st.integers(1, 300),
)
def test_any_box_gives_a_crop_or_a_tool_error(
    bbox: list[float],
    more: list[float],
    protocol_call: tuple[str, str, dict[str, object]],
    width: int,
) -> None:
    name, tool, arguments = protocol_call
    protocol = get_protocol(name, TokenGrid(max_pixels=100_000), ImageStore())
    scene = scene_of(protocol, Image.new("RGB", (width, 61)))
    call = {"name": tool, "arguments": {**arguments, "bbox_2d": [*bbox, *more]}}
    try:
        observation = protocol.run(call, scene)  # type: ignore[arg-type]
    except ToolError as error:
        assert str(error)
    else:
        left, top, right, bottom = observation["box"]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= 61
        assert observation["source"] == scene.images[0]


def test_deepeyes_boxes_count_pixels_of_the_original(deepeyes: ToolProtocol) -> None:
    picture = Image.new("RGB", (2000, 1000))
    call = {
        "name": "image_zoom_in_tool",
        "arguments": {"bbox_2d": [100, 100, 500, 300], "label": "x"},
    }
    observation = deepeyes.run(call, scene_of(deepeyes, picture))  # type: ignore[arg-type]
    assert observation["box"] == [100, 100, 500, 300]
    (reference,) = observation["images"]
    assert deepeyes.store.get(reference).size == (392, 196)


def test_deepeyes_boxes_may_count_pixels_of_what_the_model_saw() -> None:
    recipe = load_recipe("deepeyes")
    recipe = replace(recipe, crops=replace(recipe.crops, coordinates="resized"))
    protocol = get_protocol(recipe, TokenGrid(max_pixels=1000 * 500), ImageStore())
    picture = Image.new("RGB", (2000, 1000))
    width, height = protocol.grid.fit(picture.size)
    call = {
        "name": "image_zoom_in_tool",
        "arguments": {"bbox_2d": [0, 0, width / 2, height]},
    }
    observation = protocol.run(call, scene_of(protocol, picture))  # type: ignore[arg-type]
    assert observation["box"] == [0, 0, 1000, 1000]


def test_the_training_of_deepeyes_refuses_slivers_and_its_evaluation_does_not() -> None:
    call = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 30, 400]}}
    for name in ("deepeyes", "deepeyes-training"):
        protocol = get_protocol(name, TokenGrid(), ImageStore())
        scene = scene_of(protocol, Image.new("RGB", (800, 800)))
        if name == "deepeyes":
            assert protocol.run(call, scene)["box"] == [0, 0, 30, 400]  # type: ignore[arg-type]
        else:
            with pytest.raises(ToolError, match="at least 31 px"):
                protocol.run(call, scene)  # type: ignore[arg-type]


def test_embedded_boxes_count_cells_of_an_8_by_8_grid(embedded: ToolProtocol) -> None:
    call = {"name": "zoom", "arguments": {"label": "red", "bbox_2d": [3, 5, 4, 6]}}
    scene = scene_of(embedded, Image.new("RGB", (1344, 1344)))
    assert embedded.run(call, scene)["box"] == [504, 840, 672, 1008]  # type: ignore[arg-type]


def test_unknown_tools_and_arguments_are_named(embedded: ToolProtocol) -> None:
    scene = scene_of(embedded, Image.new("RGB", (64, 64)))
    with pytest.raises(ToolError, match=r"no tool 'rotate'.*zoom, sample_frames"):
        embedded.run({"name": "rotate", "arguments": {}}, scene)
    with pytest.raises(ToolError, match="unknown argument 'angle'"):
        embedded.run({"name": "zoom", "arguments": {"angle": 3}}, scene)
    with pytest.raises(ToolError, match="'bbox_2d' is missing"):
        embedded.run({"name": "zoom", "arguments": {"label": "red"}}, scene)


@pytest.mark.parametrize("name", ["video-r1", "boxed"])
def test_protocols_without_tools_refuse_calls(name: str) -> None:
    protocol = get_protocol(name, TokenGrid(), ImageStore())
    with pytest.raises(ToolError, match="available: none"):
        protocol.run({"name": "zoom", "arguments": {}}, scene_of(protocol))


def test_a_checkpoints_own_sentences_replace_ours() -> None:
    recipe = load_recipe("deepeyes-training").changed(system="be brief", suffix=" Now.")
    protocol = get_protocol(recipe, TokenGrid(), ImageStore())
    reference = protocol.store.put(Image.new("RGB", (64, 64)))
    system, user = protocol.open("What?", [reference], None)
    assert system["content"] == [{"type": "text", "text": "be brief"}]
    assert user["content"][-1] == {"type": "text", "text": "What? Now."}


def test_deepeyes_wants_an_image(deepeyes: ToolProtocol) -> None:
    with pytest.raises(ToolError, match="video-r1"):
        deepeyes.open("What?", [], "clip.mp4")


@pytest.mark.parametrize(
    ("policy", "protocol"),
    [
        ("embedded", "embedded"),
        ("ChenShawn/DeepEyes-7B", "deepeyes"),
        ("/models/Video-R1/", "video-r1"),
        ("Qwen/Qwen3-VL-8B-Thinking", "qwen3-vl"),
        ("deepeyes/my-model", "hermes"),
        ("some/embedded-model", "hermes"),
    ],
)
def test_the_protocol_follows_from_the_checkpoints_name(policy: str, protocol: str) -> None:
    assert guess_protocol(policy) == protocol


def test_unknown_protocols_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'gpt': .*boxed, deepeyes, .*video-r1"):
        get_protocol("gpt", TokenGrid(), ImageStore())
    with pytest.raises(ConfigError, match="no protocol 'gpt'; there are embedded, deepeyes"):
        choose_recipe("some-model", "gpt")
