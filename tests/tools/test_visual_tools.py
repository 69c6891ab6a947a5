"""The tools of an agent, without any framework around them."""

from pathlib import Path

import pytest
from PIL import Image
from shared import write_clip

from visreplay.tools import Box, ImageStore, Media, TokenGrid, ToolError
from visreplay.tools.visual_tools import VisualTools

PICTURE = Image.linear_gradient("L").convert("RGB").resize((300, 200))


@pytest.fixture
def tools(tmp_path: Path) -> VisualTools:
    write_clip(tmp_path / "clip.mp4", [0] * 10 + [250] * 10)  # 10 a second
    media = Media(ImageStore(), (tmp_path,))
    return VisualTools(media, TokenGrid(28, 56 * 56, 112 * 112), max_frames=3, max_crop_pixels=900)


def test_a_crop_has_the_pixels_of_its_region(tools: VisualTools) -> None:
    view = tools.crop(tools.media.store.put(PICTURE), [10, 20, 40, 50])
    assert (view.box, view.source_size) == (Box(10, 20, 40, 50), (300, 200))
    assert view.image.tobytes() == PICTURE.crop((10, 20, 40, 50)).tobytes()
    assert view.text == "box [10, 20, 40, 50] px of the 300 x 200 px image, shown at 30 x 30 px"


def test_a_large_crop_is_refused(tools: VisualTools) -> None:
    reference = tools.media.store.put(PICTURE)
    with pytest.raises(ToolError, match="31 x 30 = 930 pixels; at most 900 are sent"):
        tools.crop(reference, [0, 0, 31, 30])


def test_zoom_fits_the_grid_and_shows_the_whole_image_by_default(tools: VisualTools) -> None:
    reference = tools.media.store.put(PICTURE)
    assert tools.zoom(reference).box == Box(0, 0, 300, 200)
    assert tools.zoom(reference, [0, 0, 28, 28]).image.size == (56, 56)


def test_frames_of_a_video(tools: VisualTools) -> None:
    view = tools.sample_frames("clip.mp4", times=[0.2, 1.8])
    assert view.text == "frames at 0.20 s, 1.80 s"
    assert [frame.index for frame in view.frames] == [2, 18]
    assert [image.size for image in view.images] == [(64, 48)] * 2
    assert len(tools.sample_frames("clip.mp4", around=1, count=3).frames) == 3
    with pytest.raises(ToolError, match="a whole number from 1 to 3"):
        tools.sample_frames("clip.mp4", count=4)
    with pytest.raises(ToolError, match="exactly one of count, times, around"):
        tools.sample_frames("clip.mp4")


def test_the_properties_of_a_video(tools: VisualTools) -> None:
    info = tools.video_info("clip.mp4")
    assert (info.duration, info.frame_count, info.size) == (2.0, 20, (64, 48))
    with pytest.raises(ToolError, match=r"no video 'other\.mp4'"):
        tools.video_info("other.mp4")
