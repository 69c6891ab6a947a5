"""Recipes: what ships, how a file is checked, and what its values do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conversations import CLIP, noise

from visreplay.agent import Limits, Loop, Question, get_protocol, guess_protocol, load_recipe
from visreplay.agent.protocols import PROTOCOLS, RECIPES, choose_recipe
from visreplay.agent.protocols.recipe import Crops
from visreplay.agent.protocols.recipe_files import recipe_of
from visreplay.agent.state import Scene
from visreplay.replay_core import ConfigError
from visreplay.tools import ImageStore, TokenGrid, ToolError

PROTOCOL_TOOLS = {
    "deepeyes": "image_zoom_in_tool",
    "mini-o3": "grounding",
    "pixel-reasoner": "crop_image_normalized",
    "qwen3-vl": "image_zoom_in_tool",
}

Written = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def words(recipe: str | Path, question: str | Question) -> str:
    """The text of a question about an image."""
    protocol = get_protocol(recipe, TokenGrid(), ImageStore())
    reference = protocol.store.put(noise(0, 56, 56))
    part = protocol.open(question, [reference], None)[-1]["content"][-1]
    return part["text"]  # type: ignore[typeddict-item]


def test_every_protocol_has_a_recipe_of_its_name() -> None:
    assert PROTOCOLS.keys() <= set(RECIPES)
    for name in RECIPES:
        recipe = load_recipe(name)
        assert recipe.protocol in PROTOCOLS
        assert recipe_of(recipe.to_table(), name) == recipe


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("protocol = 3", r"protocol is 3, but it should be a valid string"),
        ("protocol = 'gpt'", r"protocol is 'gpt', but there are embedded, deepeyes"),
        ("calls = 'last'", "names no protocol"),
        ("protocol = 'boxed'\nsuffix = 'a'", "there is no key suffix"),
        ("protocol = 'boxed'\n[texts]\nafter = 'a'", r"there is no key texts\.after"),
        ("protocol = 'boxed'\n[limits]\nmax_steps = '6'", r"limits\.max_steps is '6', but it"),
        ("protocol = 'boxed'\n[limits]\nmax_steps = 6.0", r"limits\.max_steps is 6\.0, but it"),
        ("protocol = 'boxed'\n[limits]\nmax_steps = 0", "is 0, but it should be greater than or"),
        ("protocol = 'boxed'\n[frames]\ncount = 65", r"frames\.count is 65, but it should be less"),
        ("protocol = 'boxed'\n[frames]\nchoice = 'all'", r"is 'all', but it should be 'middles'"),
        ("protocol = 'boxed'\ncalls = 'any'", "calls is 'any', but it should be 'first'"),
        ("protocol = 'boxed'\n[texts]\ncrop = 'no picture'", r"texts: crop must have \{image\}"),
        ("protocol = 'boxed'\n[question]\nplain = 'a'", r"question: plain must have \{question\}"),
        ("protocol = 'boxed'\n[pixels]\nimage = {min = 2, max = 1}", r"pixels\.image: min is 2"),
        ("protocol = 'boxed'\n[endings]\nessay = 'a'", r"endings\.essay"),
        ("protocol = 'boxed'\n[decoding]\nbeams = 4", r"there is no key decoding\.beams"),
        ("protocol = 'boxed'\n[decoding]\ntop_p = 2.0", "top_p is 2.0"),
        ("protocol = 'boxed'\n[decoding]\ntemperature = 'hot'", "'hot'"),
        ("extends = 'gpt'", "extends 'gpt', but may extend boxed, deepeyes"),
        ("protocol =", "cannot be read: Invalid value"),
        (
            "protocol = 'boxed'\n[texts]\nsystem = 1979-05-27",
            r"texts\.system is \{'date': '1979-05-27'",
        ),
        ("extends = 'boxed'\nname = 'yours'", "there is no key name; the file's name is it"),
        ("extends = 'hermes'\ntools = false", "there is no key tools; .tool_free. has the texts"),
        ("extends = 'hermes'\n[tool_free]\nsystem = '{tools}'", "system must not have {tools}"),
        ("extends = 'hermes'\n[tool_free]\nerror = 'no'", r"error must have \{error\}"),
        ("extends = 'boxed'\nstop_strings = ['']", r"stop_strings\.0 is '', but it should have at"),
    ],
)
def test_mistakes_are_named_in_one_line(written: Written, text: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error) as caught:
        get_protocol(written(text), TokenGrid(), ImageStore())
    assert "mine" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_means_nothing_in_a_protocol_is_refused(written: Written, protocol: str) -> None:
    values = {
        "calls": "calls = 'first'",
        "tolerant_json": "tolerant_json = true",
        "crops": "[crops]\nmin_side = 9",
        "crops.coordinates": "[crops]\ncoordinates = 'resized'",
        "crops.padding": "[crops]\npadding = 0.5",
        "frames": "[frames]\ncount = 3",
        "frames.most": "[frames]\nmost = 3",
        "pixels.crop": "[pixels]\ncrop = {min = 9}",
        "texts.tools": "[texts]\ntools = '{signatures}'",
        "texts.crop": "[texts]\ncrop = 'a{image}'",
        "texts.frames": "[texts]\nframes = 'a{images}'",
        "texts.separator": "[texts]\nseparator = 'a'",
        "tool_free": "[tool_free]\nsuffix = 'a'",
    }
    assert set(PROTOCOLS[protocol].unused) <= set(values)
    for key, text in values.items():
        path = written(f"protocol = '{protocol}'\n{text}")
        if key in PROTOCOLS[protocol].unused:
            with pytest.raises(ConfigError, match=f"mine sets {key}, which means nothing in the"):
                get_protocol(path, TokenGrid(), ImageStore())
        elif key.split(".")[0] not in PROTOCOLS[protocol].unused:
            get_protocol(path, TokenGrid(), ImageStore())


@pytest.mark.parametrize(
    ("recipe", "written", "call"),
    [
        ("mini-o3", "<grounding>{'bbox_2d': [0, 0, 1, 1],}</grounding>", {"bbox_2d": [0, 0, 1, 1]}),
        ("pixel-reasoner", "<tool_call>{name: 'a', arguments: {'b': 1,}}</tool_call>", {"b": 1}),
        ("deepeyes", "<tool_call>{name: 'a', arguments: {'b': 1,}}</tool_call>", {"b": 1}),
    ],
)
def test_calls_are_read_as_json5_where_the_recipe_says_so(
    recipe: str, written: str, call: dict[str, Any]
) -> None:
    tolerant = replace(load_recipe(recipe), tolerant_json=True)
    turn = get_protocol(tolerant, TokenGrid(), ImageStore()).read(written)
    assert [each["arguments"] for each in turn.calls] == [call]
    assert get_protocol(recipe, TokenGrid(), ImageStore()).read(written).error is not None


@pytest.mark.parametrize(
    ("recipe", "arguments"),
    [
        ("deepeyes", {"bbox_2d": [0, 0, 20, 200]}),
        ("mini-o3", {"bbox_2d": [0, 0, 0.1, 1], "source": "original_image"}),
        ("pixel-reasoner", {"bbox_2d": [0, 0, 0.1, 0.99], "target_image": 1}),
        ("qwen3-vl", {"bbox_2d": [0, 0, 100, 1000], "label": "x", "img_idx": 0}),
    ],
)
def test_boxes_follow_the_recipes_rules(recipe: str, arguments: dict[str, Any]) -> None:
    plain = get_protocol(replace(load_recipe(recipe), crops=Crops()), PROCESSOR, ImageStore())
    call: Any = {"name": PROTOCOL_TOOLS[recipe], "arguments": arguments}
    scene = Scene(images=(plain.store.put(noise(0, 200, 200)),))
    assert plain.run(call, scene)["images"]
    for crops, error in (
        (Crops(min_side=50), "each side must have at least 50 px"),
        (Crops(max_aspect=2.0), "one side may be at most 2 times the other"),
    ):
        strict = replace(plain, recipe=replace(plain.recipe, crops=crops))
        with pytest.raises(ToolError, match=error):
            strict.run(call, scene)


def test_the_mark_that_windows_puts_before_a_text_is_not_part_of_it(written: Written) -> None:
    assert (
        load_recipe(written("\ufeffextends = 'boxed'\n[texts]\nsuffix = 'é'")).texts.suffix == "é"
    )


def test_a_recipe_that_extends_another_says_only_what_differs(written: Written) -> None:
    mine = load_recipe(written("extends = 'mini-o3'\n[texts]\nsystem = 'Look.'\ncrop = '{image}!'"))
    parent = load_recipe("mini-o3")
    texts = replace(parent.texts, system="Look.", crop="{image}!")
    # What it has is not missing any more, and the checkpoints' names lead to the parent.
    assert parent.expects == ("system", "observation", "error")
    assert mine == replace(parent, name="mine", texts=texts, expects=("error",), checkpoints=())


@pytest.mark.parametrize(
    ("policy", "recipe"),
    [
        ("ModalMinds/MM-Eureka-Qwen-7B", "mm-eureka"),
        ("TIGER-Lab/VL-Rethinker-7B", "vl-rethinker"),
        ("MMR1/MMR1-Math-v0-7B", "mmr1"),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3-vl"),
        ("Video-R1/Video-R1-7B", "video-r1"),
        ("embedded", "embedded"),
        ("my/model", "hermes"),
    ],
)
def test_the_recipe_follows_from_the_checkpoints_name(policy: str, recipe: str) -> None:
    assert choose_recipe(policy).name == recipe
    assert guess_protocol(policy) == load_recipe(recipe).protocol


def test_a_protocol_that_is_named_keeps_the_checkpoints_recipe_if_it_can() -> None:
    assert choose_recipe("MM-Eureka-Qwen-7B", "boxed").name == "mm-eureka"
    assert choose_recipe("MM-Eureka-Qwen-7B", "hermes").name == "hermes"
    with pytest.raises(ConfigError, match="'hermes', but the recipe mmr1 is written for 'boxed'"):
        choose_recipe("my/model", "hermes", "mmr1")


def test_questions_are_worded_as_the_recipe_says() -> None:
    options = Question("Which is red?", {"A": "the left", "B": "the right"})
    # The project's own words
    assert words("hermes", options).startswith(
        "Which is red?\nA. the left\nB. the right\nAnswer with the letter of the right option.\n"
    )
    # DeepEyes' evaluation
    deepeyes = load_recipe("deepeyes").texts.suffix
    assert words("deepeyes", options) == (
        f"Question: Which is red?\nOptions: \nA. the left\nB. the right\n\n{deepeyes}"
    )
    assert words("deepeyes", "Which?") == f"Question: Which?\n{deepeyes}"
    # Video-R1: the end depends on the kind
    recipe = load_recipe("video-r1")
    assert words("video-r1", options) == (
        "Which is red?Options:\nA. the left\nB. the right\n"
        + recipe.texts.suffix
        + recipe.endings["options"]
    )
    number = Question("How many?", kind="number")
    assert words("video-r1", number) == f"How many?{recipe.texts.suffix}{recipe.endings['number']}"
    assert words("video-r1", "How many?") == f"How many?{recipe.texts.suffix}"


def test_braces_in_questions_and_errors_are_not_filled_in() -> None:
    question = Question("{options} {letter}?", {"A": "{question}", "B": "{text}"})
    assert "{options} {letter}?\nOptions: \nA. {question}\nB. {text}" in words("deepeyes", question)
    protocol = get_protocol("mini-o3", TokenGrid(), ImageStore())
    (part,) = protocol.error_parts("{error} {image}")
    assert "ERROR in the grounding: {error} {image}\n" in part["text"]  # type: ignore[typeddict-item]


PROCESSOR = TokenGrid(28, 3_136, 12_845_056, "bicubic")


@pytest.mark.parametrize(
    ("recipe", "changes", "least", "most"),
    [
        ("deepeyes", {}, 3_136, 12_845_056),
        ("mm-eureka", {}, 3_136, 501_760),
        ("vl-rethinker", {}, 200_704, 1_003_520),
        ("vl-rethinker", {"max_pixels": 501_760}, 200_704, 501_760),
        ("vl-rethinker", {"max_pixels": 100_000}, 100_000, 100_000),
        ("mm-eureka", {"min_pixels": 600_000}, 600_000, 600_000),
        ("deepeyes", {"min_pixels": 20_000_000}, 20_000_000, 20_000_000),
        ("deepeyes", {"max_pixels": 1_000}, 1_000, 1_000),
    ],
)
def test_the_callers_pixels_come_before_the_recipes_and_the_processors(
    recipe: str, changes: dict[str, int], least: int, most: int
) -> None:
    chosen = load_recipe(recipe).changed(**changes)  # type: ignore[arg-type]
    grid = get_protocol(chosen, PROCESSOR, ImageStore()).grid
    assert grid == TokenGrid(28, least, most, "bicubic")


def test_pixels_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="min_pixels is 2000, but must not be above max_pixels, which is 1000"
    ):
        load_recipe("boxed").changed(min_pixels=2_000, max_pixels=1_000)
    with pytest.raises(ConfigError, match="max_pixels is 0"):
        load_recipe("boxed").changed(max_pixels=0)


def test_budgets_of_crops_and_frames_are_within_that_of_images() -> None:
    protocol = get_protocol("pixel-reasoner", PROCESSOR, ImageStore())
    tokens = 28 * 28
    assert protocol.grid == TokenGrid(28, 256 * tokens, 8_000 * tokens, "bicubic")
    assert protocol.crop_grid == TokenGrid(28, 256 * tokens, 5_120 * tokens, "bicubic")
    assert protocol.frame_grid == TokenGrid(28, 4 * tokens, 400 * tokens, "bicubic")
    small = load_recipe("pixel-reasoner").changed(max_pixels=100 * tokens)
    for grid in (
        get_protocol(small, PROCESSOR, ImageStore()).crop_grid,
        get_protocol(small, PROCESSOR, ImageStore()).frame_grid,
    ):
        assert grid.max_pixels == 100 * tokens


def test_a_least_size_of_images_leaves_videos_their_budget() -> None:
    large = load_recipe("video-r1").changed(min_pixels=600_000)
    protocol = get_protocol(large, PROCESSOR, ImageStore())
    # Small frames get 128 tokens, as in qwen-vl-utils.
    assert get_protocol("video-r1", PROCESSOR, ImageStore()).frame_grid.min_pixels == 100_352
    assert protocol.frame_grid.min_pixels <= protocol.frame_grid.max_pixels == 200_704
    width, height = protocol.frame_grid.fit((320, 240))
    assert width * height <= 200_704


def test_pictures_are_resized_as_the_recipe_or_else_the_processor_says() -> None:
    assert get_protocol("deepeyes", PROCESSOR, ImageStore()).grid.resample == "bicubic"
    assert get_protocol("embedded", PROCESSOR, ImageStore()).grid.resample == "area"


def test_limits_are_the_recipes_unless_the_caller_sets_them() -> None:
    deepeyes = get_protocol("deepeyes", TokenGrid(), ImageStore())
    assert (Loop(deepeyes).max_steps, Loop(deepeyes).bounds.max_repeats) == (11, 11)
    bounds = Loop(deepeyes, Limits(max_steps=3, max_repeats=1)).bounds
    assert (bounds.max_steps, bounds.max_repeats, bounds.max_images) == (3, 1, 64)
    training = get_protocol("deepeyes-training", TokenGrid(), ImageStore())
    assert (Loop(training).max_steps, training.recipe.calls) == (5, "last")
    reasoner = get_protocol("pixel-reasoner", TokenGrid(), ImageStore())
    assert Loop(reasoner).bounds.max_pictures == 16


def test_video_r1_sees_frames_from_end_to_end_at_their_share_of_the_video() -> None:
    recipe = load_recipe("video-r1")
    whole = replace(recipe, frames=replace(recipe.frames, time="whole"))
    middles = replace(whole, frames=replace(whole.frames, choice="middles"))
    seconds = []
    for each in (recipe, whole, middles):
        protocol = get_protocol(each, TokenGrid(), ImageStore())
        part: Any = protocol.open("?", [], str(CLIP))[-1]["content"][0]
        seconds.append(part["step_seconds"])
        times = part["times"]
        if each.frames.choice == "ends":
            assert (times[0], times[1], times[-1]) == (0.0, 0.68, 9.96)  # 250 frames, 25 a second
    # Two of 16 frames stand for an eighth of 10 seconds.
    assert seconds == [1.25, 1.0, 1.0]
    exact = get_protocol("hermes", TokenGrid(), ImageStore())
    assert "step_seconds" not in exact._overview(str(CLIP))


def test_a_recipe_says_how_to_decode() -> None:
    protocol = get_protocol("deepeyes", TokenGrid(), ImageStore())
    assert protocol.sampling.max_new_tokens == 8_192
