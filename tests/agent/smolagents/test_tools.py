"""LangChain's tools as tools of smolagents, with their images."""

from pathlib import Path

import pytest
from langchain_core.tools import tool as langchain_tool
from PIL import Image
from shared import png, write_clip
from smolagents.models import get_tool_json_schema
from smolagents.tools import validate_tool_arguments

from visreplay.agent.langchain.tools import visual_tools
from visreplay.agent.smolagents.tools import LangChainTool
from visreplay.tools import ImageStore, ToolError

PICTURE = Image.linear_gradient("L").convert("RGB").resize((100, 80))


def eyes(store: ImageStore, root: Path | None = None) -> dict[str, LangChainTool]:
    return {t.name: LangChainTool(t, store) for t in visual_tools(store, media_root=root)}


def test_a_crop_is_in_the_store_and_its_line_refers_to_it() -> None:
    store = ImageStore()
    crop = eyes(store)["crop"]
    observed = crop(image=store.put(PICTURE), bbox=[0, 0, 10, 20], sanitize_inputs_outputs=True)
    line, _, reference = observed.rpartition("\nvisreplay:")
    assert line == (
        f"box [0, 0, 10, 20] px of the 100 x 80 px image, shown at 10 x 20 px ({reference})"
    )
    assert store.get(reference).tobytes() == PICTURE.crop((0, 0, 10, 20)).tobytes()


def test_frames_come_each_on_a_line(tmp_path: Path) -> None:
    store = ImageStore()
    write_clip(tmp_path / "clip.mp4", [0] * 10 + [250] * 10)
    frames = eyes(store, tmp_path)["sample_frames"]
    observed = frames(video="clip.mp4", times=[0.2, 1.5])
    line, dark, light = observed.split("\nvisreplay:")
    assert line.startswith("frames at 0.20 s, 1.50 s")
    assert [store.get(r).getpixel((9, 9))[0] > 128 for r in (dark, light)] == [False, True]  # type: ignore[index]


def test_arguments_of_several_types_keep_their_schema() -> None:
    frames = eyes(ImageStore())["sample_frames"]
    parameters = get_tool_json_schema(frames)["function"]["parameters"]
    assert parameters["required"] == ["video"]
    times = parameters["properties"]["times"]
    assert (times["type"], times["items"]) == ("array", {"type": "number"})
    assert times["description"] == "Times of the frames, in seconds."
    validate_tool_arguments(frames, {"video": "a", "times": [1.0], "count": None})
    with pytest.raises(TypeError, match="'string' but should be 'array'"):
        validate_tool_arguments(frames, {"video": "a", "times": "now"})
    with pytest.raises(ValueError, match="video is required"):
        validate_tool_arguments(frames, {"times": [1.0]})


def test_a_tool_that_fails_raises_an_error() -> None:
    crop = eyes(ImageStore())["crop"]
    with pytest.raises(ToolError, match="is not in the store, and no files may be read"):
        crop(image="scene.png", bbox=[0, 0, 1, 1])
    with pytest.raises(ToolError, match="validation error"):
        crop(image="scene.png", bbox="all")


def test_images_come_in_any_form_of_a_block() -> None:
    @langchain_tool
    def paint(where: str) -> list[dict[str, object]]:
        """Paint."""
        return [{"type": "image_url", "image_url": {"url": where}}]

    store = ImageStore()
    painted = LangChainTool(paint, store)
    observed = painted(where=f"data:image/png;base64,{png('red')}")
    assert store.get(observed.removeprefix("visreplay:")).size == (40, 30)
    assert painted(where=observed) == observed
    with pytest.raises(ToolError, match="is not fetched"):
        painted(where="https://example.org/a.png")


def test_pictures_in_the_blocks_of_other_frameworks_are_not_lost() -> None:
    blocks: list[dict[str, object]] = []

    @langchain_tool
    def show() -> list[dict[str, object]]:
        """Show pictures."""
        return blocks

    uri = f"data:image/png;base64,{png('red')}"
    blocks += [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": uri},
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "file", "mime_type": "image/png", "base64": png("red")},
    ]
    store = ImageStore()
    shown = LangChainTool(show, store)
    words, *lines = shown().splitlines()
    assert words == "Look:" and len(lines) == 3
    assert {store.get(line.removeprefix("visreplay:")).size for line in lines} == {(40, 30)}
    blocks.append({"type": "file", "base64": "AAAA", "mime_type": "application/pdf"})
    with pytest.raises(ToolError, match="not an image"):
        shown()
