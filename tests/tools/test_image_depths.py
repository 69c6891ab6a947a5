"""Pictures of any depth keep their shades, or are refused; transparent colours become white."""

import io

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from visreplay.tools import ToolError, load_image


def tiff(values: NDArray[np.generic], **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def ramp(first: float, last: float, kind: str) -> NDArray[np.generic]:
    """Three numbers in a row, from the first to the last."""
    return np.linspace(first, last, 3).astype(kind)[None]


def colours(ramp: NDArray[np.generic], channels: int = 3) -> NDArray[np.generic]:
    return np.repeat(ramp[..., None], channels, axis=2)


def shades(source: bytes | Image.Image) -> list[int]:
    """The red shades of the first row."""
    return [int(shade) for shade in np.asarray(load_image(source))[0, :, 0]]


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["plain", "zlib"])
@pytest.mark.parametrize(
    ("first", "last", "kind"),
    [
        *((0, 255, "uint8"), (-100, 100, "int8"), (0, 65_535, "uint16"), (-1000, 3000, "int16")),
        *((0, 4e9, "uint32"), (-5e8, 5e8, "int32"), (0, 1, "float32"), (-2, 2, "float32")),
    ],
)
def test_a_tiff_of_numbers_is_read_by_its_kind(
    first: float, last: float, kind: str, options: dict[str, str]
) -> None:
    assert shades(tiff(ramp(first, last, kind), **options)) == [0, 127, 255]


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["plain", "zlib"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_sixteen_bits_that_fill_fewer_are_refused(
    channels: int, options: dict[str, str]
) -> None:
    """Pillow keeps the highest 8 bits; those of grey are all there, and scaled."""
    dark = colours(ramp(0, 1023, "uint16"), channels)
    with pytest.raises(ToolError, match=r"at most 14 are in use.*scale them to 16 bits"):
        load_image(tiff(dark, photometric="rgb", **options))
    full = colours(ramp(0, 65_535, "uint16"))
    assert shades(tiff(full, photometric="rgb", **options)) == [0, 127, 255]


def test_colours_that_lie_in_planes() -> None:
    def planes(kind: str, **options: object) -> bytes:
        values = np.moveaxis(colours(ramp(0, np.iinfo(kind).max, kind)), 2, 0)
        return tiff(values, photometric="rgb", planarconfig="separate", **options)

    assert shades(planes("uint8")) == [0, 127, 255]
    assert shades(planes("uint16", compression="zlib")) == [0, 127, 255]
    with pytest.raises(ToolError, match=r"lie in planes.*save it compressed"):
        load_image(planes("uint16"))


def test_a_tiff_whose_zero_is_white() -> None:
    assert shades(tiff(ramp(0, 255, "uint8"), photometric="miniswhite")) == [255, 128, 0]
    for values in (ramp(0, 65_535, "uint16"), ramp(0, 1, "float32")):
        with pytest.raises(ToolError, match=r"read as its negative: save it with black"):
            load_image(tiff(values, photometric="miniswhite"))


@pytest.mark.parametrize(
    ("picture", "transparent", "expected"),
    [
        (Image.fromarray(np.array([[[9, 0, 0], [0, 0, 0]]], np.uint8)), (9, 0, 0), [255, 0]),
        (Image.fromarray(np.array([[9, 0]], np.uint8)), 9, [255, 0]),
        (Image.fromarray(np.array([[9, 0, 65_535]], np.uint16)), 9, [255, 0, 255]),
    ],
    ids=["colour", "grey", "sixteen bits"],
)
def test_the_transparent_colour_of_a_png_becomes_white(
    picture: Image.Image, transparent: object, expected: list[int]
) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=transparent)
    assert shades(buffer.getvalue()) == expected
    assert shades(Image.open(buffer)) == expected


def test_what_was_converted_to_rgb_has_no_transparent_colour() -> None:
    """Pillow leaves the colour of a palette's transparent entry, which opaque ones may share."""
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    picture.putpalette([0, 0, 0, 0, 0, 0])
    picture.info["transparency"] = 1
    assert shades(picture) == [0, 255]
    assert shades(picture.convert("RGB")) == [0, 0]
