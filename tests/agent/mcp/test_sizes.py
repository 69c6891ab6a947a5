"""Results fit into a message, whatever is in them, and say what was done for it."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from mcp.types import CallToolResult, ImageContent, TextContent
from PIL import Image

from visreplay.agent.mcp.results import (
    CallResult,
    EpisodeResult,
    StepResult,
    episode_result,
    frames_result,
    region_result,
)
from visreplay.agent.mcp.sizes import MAX_RESULT, fit_pictures
from visreplay.tools import Frame, ImageStore, Media, TokenGrid
from visreplay.tools.visual_tools import FramesView, VisualTools

MIB = 2**20


def noisy(width: int, height: int, noise: float = 20) -> Image.Image:
    """A scene of smooth shades with the noise of a sensor, which no PNG makes small."""
    y, x = np.mgrid[0:height, 0:width]
    shades = [128 + 60 * np.sin(x / 301 + c) + 40 * np.cos(y / 173 + 2 * c) for c in range(3)]
    grain = np.random.default_rng(0).normal(0, noise, (height, width, 3))
    return Image.fromarray(np.clip(np.stack(shades, -1) + grain, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return noisy(4000, 3000)


def size(result: CallToolResult) -> int:
    """The bytes of the whole message, as a client receives it."""
    body = json.loads(result.model_dump_json(by_alias=True, exclude_none=True))
    return len(json.dumps({"jsonrpc": "2.0", "id": 10**9, "result": body}).encode())


def sent(result: CallToolResult) -> list[Image.Image]:
    blocks = [block for block in result.content if isinstance(block, ImageContent)]
    images = [Image.open(io.BytesIO(base64.b64decode(block.data))) for block in blocks]
    assert [Image.MIME[str(image.format)] for image in images] == [b.mimeType for b in blocks]
    return images


def words(result: CallToolResult) -> str:
    (block,) = [block for block in result.content if isinstance(block, TextContent)]
    return block.text


def data(result: CallToolResult) -> dict[str, Any]:
    assert result.structuredContent is not None
    return result.structuredContent


@pytest.mark.parametrize("box", [None, [0, 0, 2000, 2000], [100, 100, 200, 200]])
def test_views_of_a_noisy_photograph_of_12_million_pixels(
    photograph: Image.Image, box: list[int | float] | None
) -> None:
    store = ImageStore()
    tools = VisualTools(Media(store), TokenGrid().capped(1280 * 28 * 28), max_crop_pixels=4_000_000)
    name = store.put(photograph)
    views = [tools.zoom(name, box)]
    if box is not None:
        views.append(tools.crop(name, box))
    for view in views:
        result = region_result(store, view)
        assert size(result) < MIB
        (image,) = sent(result)
        # What is sent, what is said and what the reference names have one size.
        assert list(image.size) == data(result)["size"]
        assert store.get(data(result)["image"]).size == image.size
        assert f"shown at {image.width} x {image.height} px" in words(result)
        assert ("sent as JPEG" in words(result)) is (image.format == "JPEG")
        assert ("shrunk" in words(result)) is (image.size != view.image.size)
        wanted = np.asarray(view.image.resize(image.size), dtype=float)
        assert abs(wanted - np.asarray(image, dtype=float)).mean() < 12


def test_what_fits_is_sent_pixel_for_pixel() -> None:
    small = noisy(300, 200)
    fitted = fit_pictures([small])
    (block,) = fitted.blocks
    assert (block.mimeType, fitted.note, fitted.pictures) == ("image/png", "", (small,))
    assert Image.open(io.BytesIO(base64.b64decode(block.data))).tobytes() == small.tobytes()


def test_frames_share_the_room(photograph: Image.Image) -> None:
    store = ImageStore()
    frame = photograph.resize((768, 576))
    view = FramesView(tuple(Frame(frame, number / 2, number) for number in range(16)))
    result = frames_result(store, view)
    assert size(result) < MIB
    images = sent(result)
    assert len(images) == len(data(result)["frames"]) == 16
    assert len({image.size for image in images}) == 1
    assert [list(image.size) for image in images] == [f["size"] for f in data(result)["frames"]]
    assert words(result).count("frame at") == 16
    assert "sent as JPEG" in words(result).splitlines()[-1]


def test_noise_alone_is_shrunk() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    fitted = fit_pictures([Image.fromarray(noise)])
    assert sum(len(block.data) for block in fitted.blocks) < MAX_RESULT
    assert 500 < fitted.pictures[0].width < 2000
    assert fitted.note.startswith("shrunk and sent as JPEG of quality 75")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "1"])
def test_other_modes_and_large_profiles_are_sent_as_well(mode: str) -> None:
    grain = np.random.default_rng(0).integers(0, 256, (900, 900, 4), dtype=np.uint8)
    picture = Image.fromarray(grain, "RGBA").convert(mode)
    picture.info["icc_profile"] = bytes(2 * MAX_RESULT)
    picture.info["comment"] = bytes(2 * MAX_RESULT)
    fitted = fit_pictures([picture] * 3)
    assert sum(len(block.data) for block in fitted.blocks) < MAX_RESULT


def episode(steps: int, thought: str, arguments: dict[str, Any]) -> EpisodeResult:
    call = CallResult(name="zoom", arguments=arguments, result="box", images=["0" * 64], error=None)
    step = StepResult(thought=thought, calls=[call], error=None, replay=None, seconds=1.0)
    return EpisodeResult(
        answer="Kite", stop_reason="answered", steps=[step] * steps, policy="p", base=None
    )


def test_an_episode_that_fits_is_sent_as_it_is() -> None:
    whole = episode(3, "hm", {"bbox_2d": [1, 2, 3, 4]})
    result = episode_result(whole)
    assert data(result) == whole.model_dump(mode="json")
    assert words(result) == whole.text()


def test_half_a_surrogate_pair_does_not_lose_the_answer() -> None:
    result = episode_result(episode(1, "\ud800", {"\udc00": ["\ud800 \U0001f600"]}))
    assert size(result) < MAX_RESULT
    (step,) = data(result)["steps"]
    assert step["thought"] == "?"
    assert step["calls"][0]["arguments"] == {"?": ["? \U0001f600"]}


@pytest.mark.parametrize(
    ("steps", "thought", "arguments"),
    [
        (20, "x" * 100_000, {}),
        (20, "\U0001f600" * 100_000, {}),
        (20, "\x00" * 100_000, {}),
        (20, "hm", {"bbox_2d": [123456] * 50_000}),
        (20, "hm", {"label": "x" * 100_000, "more": {"y": ["z" * 100_000]}}),
        (6_000, "hm", {"bbox_2d": [1, 2, 3, 4]}),
    ],
)
def test_an_episode_that_does_not_fit_is_cut_and_says_so(
    steps: int, thought: str, arguments: dict[str, Any]
) -> None:
    result = episode_result(episode(steps, thought, arguments))
    assert len(result.model_dump_json(by_alias=True, exclude_none=True).encode()) <= MAX_RESULT
    cut = EpisodeResult.model_validate(data(result))
    assert cut.answer == "Kite"
    assert words(result).startswith("Kite (answered)")
    if steps == 20:
        assert [step.calls[0].images for step in cut.steps] == [["0" * 64]] * 20
        assert "(texts are cut to " in words(result)
    else:
        assert cut.steps == []
        assert "(its 6000 steps are left out)" in words(result)
