"""Each protocol: how it parses turns, what it crops, and what it refuses."""

import math
from dataclasses import replace

import pytest
from conversations import CLIP, GRID, call, grounding, noise

from visreplay.agent import Loop, Scene, ToolProtocol, get_protocol, load_recipe
from visreplay.agent.protocols import ParsedTurn
from visreplay.tools import ImageStore, TokenGrid, ToolError

CROP = "crop_image_normalized"
LARGE = TokenGrid()


def opened(
    name: str, *, images: int = 1, video: bool = False, grid: TokenGrid = LARGE, **texts: str
) -> tuple[ToolProtocol, Scene]:
    """A protocol, and the scene of a conversation that was opened in it."""
    recipe = load_recipe(name)
    recipe = replace(recipe, texts=replace(recipe.texts, **texts))
    protocol = get_protocol(recipe, grid, ImageStore())
    references = [protocol.store.put(noise(seed)) for seed in range(images)]
    start = Loop(protocol).start("?", images=references, video=str(CLIP) if video else None)
    return protocol, Scene.of(start)


# pixel-reasoner


def test_a_pixel_reasoner_call_counts_at_the_very_end_alone() -> None:
    protocol, _ = opened("pixel-reasoner")
    written = call(CROP, bbox_2d=[0.1, 0.1, 0.5, 0.5], target_image=1)
    (read,) = protocol.read("Closer. " + call("first") + written + "\n").calls
    assert read["name"] == CROP
    assert protocol.read(written + r" No: \boxed{4}") == ParsedTurn(
        written + r" No: \boxed{4}", answer="4"
    )
    assert protocol.read(written + " Hm.").answer is None
    (read,) = protocol.read("<think>Hm. " + written).calls
    assert read["name"] == CROP


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (r"\boxed{A}", "A"),
        (r"first \boxed{A}, no, \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\boxed{A} and \boxed{B", "A"),
        (r"\boxed{}", ""),
        (r"\boxed {A}", "A"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{" * 9_000, None),
        ("B", None),
    ],
)
def test_the_last_closed_box_is_the_answer(written: str, answer: str | None) -> None:
    assert opened("pixel-reasoner")[0].read(written).answer == answer


@pytest.mark.parametrize(
    ("bbox", "box"),
    [
        ([0.5, 0.5, 0.75, 0.75], [448, 358, 952, 762]),
        ([0.0, 0.0, 0.95, 0.95], [0, 0, 1120, 896]),
        ([112, 112, 224, 224], [0, 22, 336, 314]),  # pixels of the image, which is shown as it is
        ([0.5, 0.5, 1, 1], [0, 0, 113, 91]),  # a value of 1 makes all of them pixels
    ],
)
def test_pixel_reasoner_boxes(bbox: list[float], box: list[int]) -> None:
    protocol, scene = opened("pixel-reasoner")
    observation = protocol.run(
        {"name": CROP, "arguments": {"bbox_2d": bbox, "target_image": 1}}, scene
    )
    assert observation["box"] == box


def test_pixel_reasoner_pixels_are_those_that_the_model_saw() -> None:
    recipe = load_recipe("pixel-reasoner").changed(max_pixels=GRID.max_pixels)
    protocol = get_protocol(recipe, LARGE, ImageStore())  # 1120 x 896 is shown as 224 x 196
    scene = Scene(images=(protocol.store.put(noise(0)),))
    observation = protocol.run(
        {"name": CROP, "arguments": {"bbox_2d": [56, 49, 112, 98], "target_image": 1}}, scene
    )
    assert observation["box"] == [168, 134, 672, 538]


def test_with_a_video_the_first_crop_is_of_a_frame() -> None:
    protocol, scene = opened("pixel-reasoner", images=0, video=True)
    assert scene.overview is not None
    frames = scene.overview["frames"]
    observation = protocol.run(
        {"name": CROP, "arguments": {"bbox_2d": [0.1, 0.1, 0.6, 0.6], "target_image": 16}}, scene
    )
    assert observation["source"] == frames[15]
    with pytest.raises(ToolError, match="target_image is 17; the images are numbered from 1 to 16"):
        protocol.run(
            {"name": CROP, "arguments": {"bbox_2d": [0.1, 0.1, 0.6, 0.6], "target_image": 17}},
            scene,
        )


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([0], "is 0; the frames are numbered from 1 to 16"),
        ([1, 17], "is 17"),
        ([-1], "is -1"),
        ([1.5], "is 1.5"),
        ([True], "is True"),
        (["1"], "is '1'"),
        (list(range(1, 10)), "1 to 8 numbers of frames, not of 9"),
        ([], "not of 0"),
        (3, "a list of 1 to 8"),
    ],
)
def test_frames_out_of_range_are_refused(frames: object, error: str) -> None:
    protocol, scene = opened("pixel-reasoner", images=0, video=True)
    with pytest.raises(ToolError, match=error):
        protocol.run({"name": "select_frames", "arguments": {"target_frames": frames}}, scene)


def test_selected_frames_are_those_that_were_shown() -> None:
    protocol, scene = opened("pixel-reasoner", images=0, video=True)
    assert scene.overview is not None
    frames = scene.overview["frames"]
    observation = protocol.run(
        {"name": "select_frames", "arguments": {"target_frames": [2, 16]}}, scene
    )
    assert observation["images"] == [frames[1], frames[15]]
    times = scene.overview["times"]
    assert observation["times"] == [times[1], times[15]]
    with pytest.raises(ToolError, match="about an image"):
        protocol.run(
            {"name": "select_frames", "arguments": {"target_frames": [1]}},
            opened("pixel-reasoner")[1],
        )


def test_pixel_reasoner_refuses_tiny_crops() -> None:
    protocol, scene = opened("pixel-reasoner")
    small = protocol.store.put(noise(5, 60, 60))
    scene = replace(scene, images=(small,))
    with pytest.raises(ToolError, match="at least 29 px"):
        protocol.run(
            {"name": CROP, "arguments": {"bbox_2d": [0.5, 0.5, 0.6, 0.6], "target_image": 1}},
            scene,
        )


def test_a_checkpoints_own_line_before_a_crop() -> None:
    protocol, scene = opened("pixel-reasoner", crop="{width} by {height}{image}")
    observation = protocol.run(
        {"name": CROP, "arguments": {"bbox_2d": [0.1, 0.1, 0.5, 0.5], "target_image": 1}}, scene
    )
    line, picture = protocol.observation_parts(observation)
    assert line == {"type": "text", "text": "672 by 532"}
    assert picture == {"type": "image", "image": observation["images"][0]}


# boxed


@pytest.mark.parametrize(
    ("written", "thought", "answer"),
    [
        (r"<think>a \boxed{1}</think><answer>$\boxed{2}$</answer>", r"a \boxed{1}", "2"),
        (r"By step: \boxed{3}.", r"By step: \boxed{3}.", "3"),
        (r"<think>a, so \boxed{4}", r"a, so \boxed{4}", "4"),
        ("<think>a</think>It is 5.", "a", None),
    ],
)
def test_boxed_answers(written: str, thought: str, answer: str | None) -> None:
    read = opened("boxed")[0].read(written)
    assert (read.thought, read.answer) == (thought, answer)
    assert not opened("boxed")[0].read(call("zoom")).calls


# mini-o3


def test_mini_o3_reads_one_grounding() -> None:
    protocol, _ = opened("mini-o3")
    turn = protocol.read("<think>small</think>" + grounding(0, 0, 0.5, 0.5))
    assert turn.thought == "small"
    assert turn.calls == (
        {
            "name": "grounding",
            "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], "source": "original_image"},
        },
    )
    assert protocol.read("<think>a</think><answer> b </answer>").answer == "b"


def test_generation_stops_at_a_grounding_so_it_counts_in_an_open_thought() -> None:
    protocol, _ = opened("mini-o3")
    turn = protocol.read("<think>small " + grounding(0, 0, 0.5, 0.5))
    assert (turn.thought, len(turn.calls)) == ("small", 1)
    assert protocol.read(f"<think>{grounding(0, 0, 1, 1)}</think>hm").calls == ()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("[0, 0, 1, 1]", "one JSON object"),
        ("{'bbox_2d': [0, 0, 1, 1]}", "The grounding is not valid JSON"),
        ('__import__("os")', "not valid JSON"),
    ],
)
def test_malformed_groundings_are_errors(body: str, error: str) -> None:
    turn = opened("mini-o3")[0].read(f"<think>a</think><grounding>{body}</grounding>")
    assert error in (turn.error or "")
    assert "not closed" in (opened("mini-o3")[0].read("<grounding>{").error or "")


@pytest.mark.parametrize(
    ("bbox", "source", "error"),
    [
        ([0, 0, 1, 1], "observation_1", "there are original_image$"),
        ([0, 0, 1, 1], 0, "there are original_image$"),
        ([0, 0.5, 1, 0.5001], "original_image", "at most 200 times"),
        ([2, 2, 3, 3], "original_image", "x goes from 0 to 1"),
    ],
)
def test_what_mini_o3_refuses(bbox: list[float], source: object, error: str) -> None:
    protocol, scene = opened("mini-o3")
    with pytest.raises(ToolError, match=error):
        protocol.run({"name": "grounding", "arguments": {"bbox_2d": bbox, "source": source}}, scene)


def test_mini_o3_shows_every_image_within_its_budget() -> None:
    protocol = get_protocol("mini-o3", TokenGrid(), ImageStore())
    large, small = (math.prod(protocol.grid.fit(size)) for size in ((4000, 3000), (100, 60)))
    assert 1_900_000 < large <= 2_000_000
    assert 40_000 <= small < 60_000
    assert protocol.crop_grid == protocol.grid
    with pytest.raises(ToolError, match="needs an image"):
        protocol.open("?", [], str(CLIP))


# qwen3-vl


def test_qwen3_vl_reads_all_calls_outside_of_the_thought() -> None:
    protocol, _ = opened("qwen3-vl")
    turn = protocol.read(f"<think>{call('x')}</think>One.{call('a')}\n{call('b')}")
    assert [read["name"] for read in turn.calls] == ["a", "b"]
    assert turn.thought == call("x")
    assert protocol.read(f"<think>{call('x')}</think> A dog. ").answer == "A dog."
    # A thought that is never closed: the model waits for the call that the turn ends with.
    assert protocol.read(f"<think>a {call('x')}") == ParsedTurn(
        "a", ({"name": "x", "arguments": {}},)
    )
    # The template of the thinking models opens the thought.
    assert protocol.read(f"{call('x')}</think>\n\nA dog.").answer == "A dog."


@pytest.mark.parametrize(
    ("bbox", "box"),
    [
        ([0, 0, 1000, 1000], [0, 0, 1120, 896]),
        ([250, 500, 500, 750], [280, 448, 560, 672]),
        # 12 x 9 pixels, grown by 28 / 9 around the centre
        ([500, 500, 510, 510], [547, 438, 585, 467]),
        ([0, 0, 2, 900], [0, 0, 3, 807]),  # no room to grow at the edge
    ],
)
def test_qwen3_vl_boxes(bbox: list[float], box: list[int]) -> None:
    protocol, scene = opened("qwen3-vl")
    arguments = {"bbox_2d": bbox, "label": "x", "img_idx": 0}
    if box[2] == 3:
        with pytest.raises(ToolError, match="200 times"):
            protocol.run({"name": "image_zoom_in_tool", "arguments": arguments}, scene)
    else:
        observation = protocol.run({"name": "image_zoom_in_tool", "arguments": arguments}, scene)
        assert observation["box"] == box
        crop = protocol.store.get(observation["images"][0])
        assert crop.width * crop.height >= 256 * 28 * 28


@pytest.mark.parametrize("index", [2, -1, 0.5, "0", None, True, pytest.param(10**5000, id="huge")])
def test_image_indices_out_of_range_are_refused(index: object) -> None:
    protocol, scene = opened("qwen3-vl", images=2)
    arguments = {"bbox_2d": [0, 0, 500, 500], "label": "x", "img_idx": index}
    with pytest.raises(ToolError, match="numbered from 0 to 1"):
        protocol.run({"name": "image_zoom_in_tool", "arguments": arguments}, scene)
    video = opened("qwen3-vl", images=0, video=True)[1]
    with pytest.raises(ToolError, match="there are no images"):
        protocol.run({"name": "image_zoom_in_tool", "arguments": arguments}, video)


# hermes


def test_hermes_answers_in_tags_or_in_free_text() -> None:
    protocol, _ = opened("hermes")
    assert protocol.read("It is <answer> a dog </answer>.") == ParsedTurn("It is", answer="a dog")
    assert protocol.read("A dog.").answer == "A dog."
    assert len(protocol.read(call("zoom") + call("crop")).calls) == 2
    assert protocol.read(call("zoom") + "<answer>cat</answer>").answer == "cat"
    assert protocol.read(f"<think>{call('zoom')}</think>A dog.").answer == "A dog."


def test_hermes_crops_are_of_the_first_image_unless_it_says_which() -> None:
    protocol, scene = opened("hermes", images=2)
    for number, arguments in ((0, {}), (0, {"image": 1}), (1, {"image": 2})):
        observation = protocol.run(
            {"name": "crop", "arguments": {"bbox_2d": [0, 0, 560, 560], **arguments}}, scene
        )
        assert observation["source"] == scene.images[number]
        assert protocol.store.get(observation["images"][0]).size == (560, 560)
    with pytest.raises(ToolError, match="image is 3; the images are numbered from 1 to 2"):
        protocol.run({"name": "zoom", "arguments": {"bbox_2d": [0, 0, 9, 9], "image": 3}}, scene)


@pytest.mark.parametrize(
    ("times", "error"),
    [([11], "outside the clip"), ([], "at least one"), ([1] * 9, "from 1 to 8"), (1, "a list")],
)
def test_moments_outside_of_the_video_are_refused(times: object, error: str) -> None:
    protocol, scene = opened("hermes", images=0, video=True)
    with pytest.raises(ToolError, match=error):
        protocol.run({"name": "sample_frames", "arguments": {"times": times}}, scene)
