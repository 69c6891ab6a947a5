"""Blocks in the forms of other interfaces, and the limits that an image may have."""

import base64
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from shared import png, write_clip

from visreplay.agent.chat.media_parts import LOW_DETAIL, image_reference, read_part
from visreplay.agent.messages import text
from visreplay.tools import ImageStore, Media, TokenGrid, ToolError
from visreplay.tools.media_budget import Budget

Block = dict[str, Any]

RED = png("red")
URL_SAFE = RED.replace("+", "-").replace("/", "_").rstrip("=")
URI = f"data:image/png;base64,{RED}"
GRID = TokenGrid(28, 56 * 56, 1280 * 28 * 28)
FRAMES = TokenGrid(28, 56 * 56, 112 * 112)


@pytest.fixture
def media() -> Media:
    return Media(ImageStore(), max_uri=10**7)


LISTED: Block = {"type": "video", "frames": [URI], "times": [0.0]}

IMAGES: list[Block] = [
    {"type": "image", "url": URI},
    {"type": "image", "base64": RED, "mime_type": "image/png"},
    {"type": "image", "base64": URL_SAFE},
    {"type": "image", "base64": URI},
    {"type": "image", "url": URI.replace("data:", "DATA:")},
    {"type": "image", "data": RED, "mimeType": "image/png"},
    {"type": "image", "source_type": "base64", "data": RED, "mime_type": "image/png"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": RED}},
    {"type": "image", "source": {"type": "url", "url": URI}},
    {"type": "image", "image": URI},
    {"type": "image_url", "image_url": {"url": URI}},
    {"type": "image_url", "image_url": {"url": URI, "detail": "high"}},
    {"type": "image_url", "image_url": URI},
    {"type": "input_image", "image_url": URI, "detail": "auto"},
    {"type": "input_image", "image_url": {"url": URI}},
    {"type": "media", "mime_type": "image/png", "data": RED},
    {"type": "media", "mime_type": "image/png", "data": base64.b64decode(RED)},
    {"type": "media", "mime_type": "image/png", "file_uri": URI},
    {"type": "file", "mime_type": "image/png", "base64": RED},
    {"type": "file", "mime_type": "IMAGE/PNG; q=1", "url": URI},
    {"type": "file", "source_type": "base64", "mime_type": "image/png", "data": RED},
    {"type": "file", "file": {"file_data": URI, "filename": "red.png"}},
    {"type": "file", "url": URI},
    {"type": "input_file", "file_data": URI},
    {"type": "document", "source": {"type": "base64", "media_type": "image/png", "data": RED}},
]


@pytest.mark.parametrize("block", IMAGES, ids=range(len(IMAGES)))
def test_an_image_in_every_form(media: Media, block: Block) -> None:
    part = read_part(block, media, GRID, FRAMES)
    assert part["type"] == "image"
    assert media.store.get(part["image"]).getpixel((0, 0)) == (255, 0, 0)
    assert image_reference(block, media) == part["image"]


def test_a_video_in_every_form(media: Media, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", [20] * 10 + [220] * 10)
    data = base64.b64encode(clip.read_bytes()).decode()
    uri = f"data:video/mp4;base64,{data}"
    blocks: list[Block] = [
        {"type": "video", "url": uri},
        {"type": "video", "video": uri},
        {"type": "video_url", "video_url": uri},
        {"type": "video_url", "video_url": {"url": uri}},
        {"type": "media", "mime_type": "video/mp4", "data": data},
        {"type": "file", "mime_type": "video/mp4", "base64": data},
        {"type": "video", "url": uri, "detail": "auto", "fps": None},
    ]
    parts = [read_part(block, media, GRID, FRAMES) for block in blocks]
    assert parts[0]["type"] == "video" and parts[0]["times"] == [0.2, 0.7, 1.2, 1.7]
    assert all(part == parts[0] for part in parts)


def test_a_video_of_listed_frames(media: Media) -> None:
    part = read_part(LISTED | {"step_seconds": 0.5, "detail": "auto"}, media, GRID, FRAMES)
    frame = media.reference(URI)
    assert part == {"type": "video", "frames": [frame], "times": [0.0], "step_seconds": 0.5}


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text", "text-plain"])
def test_text_in_every_form(media: Media, kind: str) -> None:
    assert read_part({"type": kind, "text": "Hello"}, media, GRID, FRAMES) == text("Hello")


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ({"type": "file", "mime_type": "application/pdf", "base64": RED}, "'application/pdf'"),
        ({"type": "file", "base64": RED}, "nothing says what it is"),
        ({"type": "media", "data": RED}, "nothing says what it is"),
        ({"type": "document", "source": {"type": "text", "data": "a"}}, "nothing says"),
        ({"type": "file", "mime_type": "image/png", "file_id": "f"}, "names a file of another"),
        ({"type": "image", "file_id": "f"}, "neither base64 nor a URL; a file_id"),
        ({"type": "image", "source_type": "id", "id": "f"}, "neither base64 nor a URL"),
        ({"type": "image", "url": 7}, "neither base64 nor a URL"),
        ({"type": "image", "base64": bytearray(b"AAAA")}, "neither base64 nor a URL"),
        ({"type": "image", "base64": b"AAAA"}, "not an image"),
        ({"type": "image", "image_url": None}, "neither base64 nor a URL"),
        ({"type": "image", "source": []}, "neither base64 nor a URL"),
        ({"type": "image", "base64": "*"}, "cannot be decoded"),
        ({"type": "input_audio", "input_audio": {"data": RED}}, "'input_audio' cannot be shown"),
        ({"type": ["image"], "url": URI}, "cannot be shown"),
        ({"image_url": URI}, "type None cannot be shown"),
        ({"type": "text"}, "'text' cannot be shown"),
        ({"type": "reasoning", "reasoning": "a"}, "'reasoning' cannot be shown"),
        ({"type": "video", "url": URI, "fps": 4}, "no setting 'fps' here: two frames a second"),
        ({"type": "video_url", "video_url": {"url": URI, "max_pixels": 9}}, "'max_pixels'"),
        ({"type": "video", "url": URI, "frames": 8}, "no setting 'frames' here: two frames"),
        ({"type": "video", "url": URI, "step_seconds": 1}, "no setting 'step_seconds'"),
        ({"type": "video", "url": URI, "extras": {"detail": "low"}}, "no setting 'detail'"),
        (
            {"type": "media", "data": RED, "mime_type": "video/mp4", "video_metadata": {"fps": 4}},
            "no setting 'video_metadata'",
        ),
        ({"type": "image", "image": URI, "resized_height": 28}, "an image has no setting 'resized"),
        ({"type": "image_url", "image_url": {"url": URI, "resized_width": 28}}, "'resized_width'"),
        ({"type": "image", "url": URI, "fps": 4}, "an image has no setting 'fps'"),
        (LISTED | {"url": URI}, "listed frames and 'url' too"),
        (LISTED | {"video": {"base64": "AAAA"}}, "listed frames and 'base64' too"),
        (LISTED | {"fps": 4}, "a video of listed frames has no setting 'fps' here: the frames"),
        (LISTED | {"max_pixels": 9}, "'max_pixels'"),
        (LISTED | {"extras": {"resized_height": 28}}, "'resized_height'"),
    ],
)
def test_other_blocks_are_refused(media: Media, block: Block, error: str) -> None:
    with pytest.raises(ToolError, match=error):
        read_part(block, media, GRID, FRAMES)


def size_of(media: Media, grid: TokenGrid = GRID, **limits: object) -> tuple[int, int]:
    """The size of an image of 1000 x 600 pixels under some limits."""
    name = media.store.put(Image.new("RGB", (1000, 600)))
    block = {"type": "image", "url": f"visreplay:{name}", **limits}
    nested = {"type": "image_url", "image_url": {"url": f"visreplay:{name}", **limits}}
    of_langchain = {"type": "image", "url": f"visreplay:{name}", "extras": limits}
    sizes = set()
    for form in (block, nested, of_langchain):
        part = read_part(form, media, grid, FRAMES)
        assert part["type"] == "image"
        sizes.add(media.store.get(part["image"]).size)
    (size,) = sizes
    return size


def test_limits_of_an_image_are_held(media: Media) -> None:
    assert size_of(media) == (1000, 600)
    for detail in ("auto", "high", "original"):
        assert size_of(media, detail=detail) == (1000, 600)
    width, height = size_of(media, max_pixels=100_000)
    assert 80_000 < width * height <= 100_000
    assert 1.55 < width / height < 1.8
    width, height = size_of(media, min_pixels=900_000)
    assert 900_000 <= width * height < 1_003_520
    width, height = size_of(media, detail="low")
    assert 200_000 < width * height <= LOW_DETAIL
    assert size_of(media, detail="low", max_pixels=50_000) == size_of(media, max_pixels=50_000)
    # Limits beyond the policy's own leave those.
    assert size_of(media, min_pixels=1, max_pixels=10**9) == GRID.fit((1000, 600))
    small = TokenGrid(28, 56 * 56, 112 * 112)
    assert size_of(media, small, detail="low") == small.fit((1000, 600))
    large = TokenGrid(28, 700_000, 800_000)
    assert size_of(media, large, detail="low") == large.fit((1000, 600))


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max_pixels": 100}, "an image of 3136 to 100 pixels cannot be shown"),
        ({"min_pixels": 10**8}, "policy is shown images of 3136 to 1003520"),
        ({"min_pixels": 20_000, "max_pixels": 10_000}, "of 20000 to 10000 pixels cannot be shown"),
        ({"max_pixels": 0}, "max_pixels is 0, but must be a number of pixels"),
        ({"max_pixels": "100"}, "max_pixels is '100'"),
        ({"min_pixels": True}, "min_pixels is True"),
        ({"min_pixels": 1e5}, "min_pixels is 100000.0"),
        ({"detail": "medium"}, "detail is 'medium'; it is auto, low, high or original"),
        ({"detail": ["low"]}, "detail is"),
    ],
)
def test_limits_that_cannot_be_held_are_refused(media: Media, limits: Block, error: str) -> None:
    with pytest.raises(ToolError, match=error):
        size_of(media, **limits)


def test_enlarged_images_count(media: Media) -> None:
    """So that a thousand small images with a large minimum take no more than others."""
    bounded = Media(media.store, max_uri=10**7, budget=Budget(2_000_000, 100, 60))
    block = {"type": "image", "base64": RED, "min_pixels": 900_000}
    read_part(block, bounded, GRID, FRAMES)
    read_part(block, bounded, GRID, FRAMES)
    with pytest.raises(ToolError, match="more than 2,000,000 pixels together"):
        read_part(block, bounded, GRID, FRAMES)
