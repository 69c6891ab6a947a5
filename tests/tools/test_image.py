import io
import math
import os
import zlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from visreplay.tools import (
    Box,
    TokenGrid,
    ToolError,
    crop,
    load_image,
    media_kind,
    parse_box,
    zoom,
)

PICTURES = Path(__file__).parent.parent / "data" / "pictures"
PHOTOGRAPHS = Path(str(find_spec("skimage").origin)).parent / "data"  # type: ignore[union-attr]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("L", (1, 1))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "brick.png", "rocket.jpg"])
def test_photographs_load(name: str) -> None:
    path = PHOTOGRAPHS / name
    if not path.exists():
        pytest.skip(f"this scikit-image does not ship {name}")
    image = load_image(path)
    assert image.mode == "RGB"
    assert zoom(image, grid=TokenGrid(28, 3136, 224 * 224)).width % 28 == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (8, 6), 255)
    image = load_image(grey.convert("RGB" if mode in ("CMYK", "YCbCr") else "L").convert(mode))
    assert (image.mode, image.size) == ("RGB", (8, 6))
    assert image.getpixel((3, 3)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 257 * 10, 65535]], dtype=np.uint16)
    image = load_image(encoded(Image.fromarray(values)))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 10, 255]  # type: ignore[index]


def test_transparency_is_white() -> None:
    assert load_image(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_the_camera_s_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    assert load_image(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).size == (4, 8)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data).getpixel((0, 0)) == (255, 0, 0)


def test_a_limit_of_pixels_is_checked_before_decoding() -> None:
    with pytest.raises(ToolError, match=r"8000 x 5000 = 40000000 pixels; at most 5000000"):
        load_image(png_header(8_000, 5_000), max_pixels=5_000_000)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (encoded(Image.effect_noise((64, 64), 50))[:600], "cannot be read"),
        (png_header(100_000, 100_000), "at most 89478485 are allowed"),
        ("nowhere.png", "nowhere.png"),
        ("/", "'/'"),
        ("http://localhost/x.png", "URL"),
        ("file:///etc/passwd", "URL"),
    ],
)
def test_what_is_not_an_image_is_refused(source: bytes | str, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        load_image(source)


@pytest.mark.parametrize(
    ("values", "extent", "box"),
    [
        ([10, 20, 30, 40], (200, 100), (10, 20, 30, 40)),
        ([0.1, 0.2, 0.3, 0.4], (1, 1), (20, 20, 60, 40)),
        ([100, 200, 300, 400], (1000, 1000), (20, 20, 60, 40)),
        ([3, 5, 4, 6], (8, 8), (75, 62, 100, 75)),
        ([-50, -50, 500, 500], (200, 100), (0, 0, 200, 100)),
        ([199.5, 99.5, 200, 100], (200, 100), (199, 99, 200, 100)),
    ],
)
def test_boxes_in_every_coordinate_space(
    values: list[float], extent: tuple[float, float], box: tuple[int, ...]
) -> None:
    assert parse_box(values, extent, (200, 100)).as_tuple() == box


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "four numbers"),
        ([1, 2, 3], "four numbers"),
        (["1", 2, 3, 4], "four numbers"),
        ([True, 2, 3, 4], "four numbers"),
        ([math.nan, 0, 1, 1], "not finite"),
        ([0, 0, math.inf, 1], "not finite"),
        ([10**400, 0, 1, 1], "too large"),
        ([5, 5, 5, 9], "no area"),
        ([9, 9, 5, 5], "no area"),
        ([200, 0, 300, 50], "outside the image"),
        ([0, 0, 200, 0.5], "at most 100 times"),
        ([0, 0, 5, 50], "at least 10 px"),
    ],
)
def test_bad_boxes_are_explained(values: object, message: str) -> None:
    min_side = 1 if "times" in message else 10
    with pytest.raises(ToolError, match=message):
        parse_box(values, (200, 100), (200, 100), min_side=min_side, max_aspect=100)


NUMBERS = st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=3)
EXTENTS = st.tuples(*[st.sampled_from([1.0, 8.0, 1000.0, 37.0])] * 2)
SIZES = st.tuples(*[st.integers(1, 5000)] * 2)


@given(st.lists(NUMBERS, max_size=5) | NUMBERS, EXTENTS, SIZES)
def test_whatever_is_asked_gives_a_box_inside_or_an_explanation(
    values: object, extent: tuple[float, float], size: tuple[int, int]
) -> None:
    try:
        box = parse_box(values, extent, size)
    except ToolError:
        return
    assert 0 <= box.left < box.right <= size[0]
    assert 0 <= box.top < box.bottom <= size[1]


@given(EXTENTS, SIZES, st.tuples(*[st.floats(0, 1)] * 4))
def test_a_box_covers_what_was_asked(
    extent: tuple[float, float], size: tuple[int, int], shares: tuple[float, ...]
) -> None:
    x1, x2 = sorted((shares[0] * extent[0], shares[1] * extent[0]))
    y1, y2 = sorted((shares[2] * extent[1], shares[3] * extent[1]))
    try:
        box = parse_box([x1, y1, x2, y2], extent, size)
    except ToolError:
        return
    assert box.left <= x1 / extent[0] * size[0] + 1e-5
    assert box.right >= x2 / extent[0] * size[0] - 1e-5
    assert box.width <= (x2 - x1) / extent[0] * size[0] + 2
    assert box.height <= (y2 - y1) / extent[1] * size[1] + 2


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([28, 32]))
def test_the_grid_is_the_one_of_qwen(width: int, height: int, factor: int) -> None:
    grid = TokenGrid(factor, 4 * factor**2, 1280 * factor**2)
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ToolError, match="200 times"):
            grid.fit((width, height))
        return
    expected = smart_resize(height, width, factor, grid.min_pixels, grid.max_pixels)
    assert grid.fit((width, height)) == expected[::-1]


def test_crop_is_pixel_for_pixel() -> None:
    image = Image.linear_gradient("L").convert("RGB")
    assert crop(image, Box(0, 100, 10, 120)).getpixel((5, 3)) == image.getpixel((5, 103))


def test_zoom_leaves_alone_what_fits() -> None:
    image = Image.new("RGB", (112, 84))
    assert zoom(image) is image


def test_zoom_averages_when_it_shrinks() -> None:
    stripes = np.zeros((448, 448, 3), np.uint8)
    stripes[:, ::2] = 200
    small = zoom(Image.fromarray(stripes), grid=TokenGrid(28, 3136, 224 * 224))
    assert small.size == (224, 224)
    assert small.getpixel((7, 7)) == (100, 100, 100)


@pytest.mark.parametrize(("values", "grey"), [([0, 0.5, 1], 127), ([0, 100, 255], 100)])
def test_floats_are_scaled(values: list[float], grey: int) -> None:
    image = load_image(Image.fromarray(np.array([values], dtype=np.float32)))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, grey, 255]  # type: ignore[index]


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ToolError, match="there is no image"):
        load_image(tmp_path / "pipe.png")


def test_a_crop_beyond_the_image_is_refused() -> None:
    with pytest.raises(ToolError, match="not inside the image of 48 x 48 px"):
        crop(Image.new("RGB", (48, 48)), Box(40, 0, 80, 10))


@pytest.mark.parametrize("size", [(500, 300), (60, 40)])
def test_bicubic_resizing_is_pillows(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    grid = TokenGrid(28, 112 * 112, 224 * 224, "bicubic")
    resized = zoom(picture, grid=grid)
    expected = picture.resize(grid.fit(size), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(resized), np.asarray(expected))
    by_area = zoom(picture, grid=replace(grid, resample="area"))
    assert not np.array_equal(np.asarray(resized), np.asarray(by_area))
    assert grid.capped(100).resample == "bicubic"


def test_numbers_below_zero_are_spread_over_what_is_there() -> None:
    image = load_image(PICTURES / "hu.tif")
    assert image.getextrema() == ((0, 255),) * 3
    grey = np.asarray(image)[..., 0].astype(float)
    raw = np.asarray(Image.open(PICTURES / "hu.tif")).astype(float)
    expected = (raw - raw.min()) / (raw.max() - raw.min()) * 255
    assert np.abs(grey - expected).max() <= 1


@pytest.mark.parametrize(
    ("values", "shades"),
    [([-1.0, 0.0, 1.0], [0, 127, 255]), ([0.0, np.nan, 0.5], [0, 0, 127]), ([-5.0], [0])],
)
def test_floats_of_any_range_are_pictures(values: list[float], shades: list[int]) -> None:
    image = load_image(Image.fromarray(np.array([values], dtype=np.float32)))
    assert [image.getpixel((x, 0))[0] for x in range(len(values))] == shades  # type: ignore[index]


@pytest.mark.parametrize(
    ("highest", "shade"),
    [(255, 255), (300, 75), (1023, 255), (3000, 187), (4095, 255), (50_000, 195)],
)
@pytest.mark.parametrize("kind", [np.int32, np.uint16])
def test_integers_are_scaled_by_their_depth(highest: int, shade: int, kind: type) -> None:
    image = load_image(Image.fromarray(np.array([[0, highest]], dtype=kind)))
    assert abs(image.getpixel((1, 0))[0] - shade) <= 1  # type: ignore[index]


@pytest.mark.parametrize(("highest", "shade"), [(1.05, 255), (3.0, 255), (200.0, 200), (1e4, 255)])
def test_floats_that_go_a_little_further(highest: float, shade: int) -> None:
    image = load_image(Image.fromarray(np.array([[0.0, highest]], dtype=np.float32)))
    assert image.getpixel((1, 0))[0] == shade  # type: ignore[index]


def test_a_long_text_in_a_png_is_no_obstacle() -> None:
    assert load_image(PICTURES / "ztxt.png").size == (240, 120)


def test_large_pictures_need_an_option_alone() -> None:
    """The limit is the caller's to set, above Pillow's own too."""
    large = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    with pytest.raises(ToolError, match="at most 89478485 are allowed"):
        load_image(large)
    image = load_image(large, max_pixels=200_000_000)
    assert image.size == (20_000, 10_000)
    assert load_image(image) is not None, "pixels that are there already need no limit"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ((PICTURES / "photo.heic").read_bytes(), r"HEIC picture.* pip install .*heif"),
        (b"\xff\x0a" + bytes(40), "JPEG XL picture.*convert it to PNG or JPEG"),
        (b"%PDF-1.7\n" + bytes(40), "a PDF.*convert its pages"),
        (b'<?xml version="1.0"?>\n<svg width="4"></svg>', "an SVG drawing"),
        (b"8BPS" + bytes(40), "a Photoshop picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
    ],
)
def test_other_formats_are_named_with_the_way_out(content: bytes, what: str) -> None:
    if what.startswith("HEIC") and find_spec("pillow_heif"):
        pytest.skip("this installation reads HEIC")
    with pytest.raises(ToolError, match=what):
        load_image(content)


def test_the_content_tells_what_a_file_is(tmp_path: Path) -> None:
    clips = PICTURES.parent / "clips"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    contents = {
        "picture.mp4": (encoded(Image.new("RGB", (4, 4))), "image"),
        "still.gif": (encoded(frames[0], "GIF"), "image"),
        "moving.gif": (moving, "video"),
        "clip.png": ((clips / "id.mp4").read_bytes(), "video"),
        "clip": ((clips / "id_h264.ts").read_bytes(), "video"),
    }
    for name, (content, kind) in contents.items():
        (tmp_path / name).write_bytes(content)
        assert media_kind(tmp_path / name) == kind, name
    with pytest.raises(ToolError, match="there is no image or video"):
        media_kind(tmp_path / "nowhere")
    (tmp_path / "photo.mp4").write_bytes((PICTURES / "photo.heic").read_bytes())
    if not find_spec("pillow_heif"):
        with pytest.raises(ToolError, match="HEIC"):
            media_kind(tmp_path / "photo.mp4")
