"""Decode pictures. Files are decoded by the children of `media_pool` only."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from visreplay.tools.types import ToolError

FORMATS = (
    *("PNG", "JPEG", "MPO", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "HEIF", "JPEG2000"),
    *("PPM", "ICO", "TGA"),
)
"""Raster formats only: others (EPS, for example) start programs of their own."""
PIXEL_BYTES = 28
"""Bytes that decoding needs for a pixel at most: what the decoder keeps (the coefficients of a
progressive JPEG, for example), the picture, and an upright copy of it."""
MAX_TEXT_BYTES = 64 * 2**20
"""Largest texts and colour profile of a PNG, in bytes; real files go beyond Pillow's own limit."""
_FULL_SCALES = tuple(float(2**bits - 1) for bits in (8, 10, 12, 14, 16))
_STRIP_PIXELS = 2**20
"""Pixels that are converted to RGB at a time."""
_OTHER_FORMATS = (
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture", "convert it to PNG or JPEG"),
    (b"\xff\x0a", "a JPEG XL picture", "convert it to PNG or JPEG"),
    (b"%PDF", "a PDF", "convert its pages to PNG"),
    (b"8BPS", "a Photoshop picture", "export it as PNG"),
    (b"%!PS", "PostScript", "convert it to PNG"),
    (b"<svg", "an SVG drawing", "convert it to PNG"),
)
"""First bytes of files in other formats, what they are, and the way out."""
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def decode_image(path: str, name: str, max_pixels: int) -> Image.Image:
    """Decode a picture upright, in the mode of its file.

    Raises:
        ToolError: The file is not a readable picture, or too large.
    """
    with pillow_errors(name), _opened(path, name) as image:
        return upright(image, max_pixels)


def picture_kind(path: str, name: str) -> Literal["image", "video"] | None:
    """Tell by its content whether a file is a picture; a GIF that moves is a video.

    Returns:
        None for a file that no picture's decoder knows.

    Raises:
        ToolError: The file is a picture that cannot be read.
    """
    try:
        with pillow_errors(name), _opened(path, name) as image:
            moves = image.format == "GIF" and getattr(image, "is_animated", False)
            return "video" if moves else "image"
    except _UnknownFormatError:
        return None


class _UnknownFormatError(ToolError):
    """No decoder knows the file."""


@contextmanager
def pillow_errors(name: str) -> Iterator[None]:
    """Make all that Pillow raises about a picture a `ToolError`.

    Args:
        name: The picture's name in errors.
    """
    try:
        yield
    except ToolError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ToolError(f"{name} is too large: {error}") from error
    except (OSError, SyntaxError, EOFError, ValueError, RuntimeError) as error:
        raise ToolError(f"{name} cannot be read: {error}") from error
    except MemoryError as error:
        raise ToolError(f"{name} needs more memory than there is") from error
    except Warning as warning:
        # Where warnings are errors, Pillow's about damaged files are no different from its errors.
        raise ToolError(f"{name} is damaged: {warning}") from warning


@contextmanager
def _opened(path: str, name: str) -> Iterator[Image.Image]:
    """Open a file, and say what it is if that is a format that is not read."""
    try:
        image = Image.open(path, formats=_known_formats())
    except UnidentifiedImageError:
        with open(path, "rb") as file:
            start = file.read(512)
        raise _refusal(start, name) from None
    with image:
        yield image


def _refusal(start: bytes, name: str) -> ToolError:
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return ToolError(
            f"{name} is a HEIC picture, which needs another decoder: pip install pillow-heif, or "
            "convert it to JPEG"
        )
    for first, what, way_out in _OTHER_FORMATS:
        if first in start if first == b"<svg" else start.startswith(first):
            return ToolError(f"{name} is {what}, which is not read here: {way_out}")
    return _UnknownFormatError(f"{name} is not an image that can be read")


@lru_cache
def _known_formats() -> tuple[str, ...]:
    """Choose the `FORMATS` that this Pillow was built with, and lift its own limits.

    They hold for the process, and are no help in one that has limits of memory and time.
    """
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES
    Image.MAX_IMAGE_PIXELS = None
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def upright(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """Check the size of a picture, read its pixels, and turn it as its camera was held.

    Raises:
        ToolError: The picture is too large, has no area, or has lost its shades.
    """
    _check_size(image, max_pixels)
    sixteen_bits = ";16" in str(getattr(image, "tile", ""))
    image.load()
    _check_size(image, max_pixels)  # an icon's directory, for example, may name another size
    result = ImageOps.exif_transpose(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        result = _as_tags_say(result, image.tag_v2)
    if sixteen_bits and not result.mode.startswith("I"):
        _check_shades(result)
    if image.format and result.mode == "RGB" and result.has_transparency_data:
        # An image that was converted to RGB may have such a colour too, of opaque pixels as well.
        colour = result.info["transparency"]
        result.info["transparency"] = tuple(c >> 8 for c in colour) if sixteen_bits else colour
        result = result.convert("RGBA")
    return result


def _as_tags_say(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Take the numbers of a TIFF as its tags say where Pillow does not.

    Raises:
        ToolError: They cannot be told from what Pillow made of them.
    """
    signed = 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    if image.mode == "L" and signed:
        return Image.fromarray(np.asarray(image).view(np.int8).astype(np.int32))
    if image.mode == "I" and not signed and image.getextrema()[0] < 0:  # type: ignore[operator]
        return Image.fromarray(np.asarray(image).view(np.uint32).astype(np.float32))
    if image.mode in ("I;16", "F") and tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        raise ToolError(
            "the image is a TIFF of 16 or 32 bits whose lowest number is white, and would be read "
            "as its negative: save it with black as the lowest number (BlackIsZero)"
        )
    deep = len(image.getbands()) > 1 and 16 in tags.get(TiffImagePlugin.BITSPERSAMPLE, ())
    planes = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    if deep and planes and tags.get(TiffImagePlugin.COMPRESSION, 1) == 1:
        raise ToolError(
            "the image is a TIFF without compression whose colours of 16 bits lie in planes, which "
            "is not read: save it compressed, or with the colours of each pixel together"
        )
    return image


def _check_shades(image: Image.Image) -> None:
    """Refuse colours of 16 bits that use at most 14; Pillow keeps the highest 8 of all.

    Raises:
        ToolError: They do.
    """
    bands = zip(image.getbands(), image.split(), strict=True)
    highest = max(int(band.getextrema()[1]) for name, band in bands if name != "A")  # type: ignore[arg-type]
    if highest < 64:
        raise ToolError(
            "the colours of the image have 16 bits, of which at most 14 are in use, and only the "
            "highest 8 are read: scale them to 16 bits, or convert the image to 8"
        )


def _check_size(image: Image.Image, max_pixels: int | None) -> None:
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        raise ToolError(
            f"the image has {width} x {height} = {width * height} pixels; "
            f"at most {max_pixels} are allowed"
        )
    if not width or not height:
        raise ToolError(f"the image is {width} x {height} pixels: it has no area")


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture as `rgb_strips` does; one that is RGB stays as it is."""
    if image.mode == "RGB":
        return image
    return Image.fromarray(np.concatenate(list(rgb_strips(image))))


def rgb_strips(image: Image.Image) -> Iterator[NDArray[np.uint8]]:
    """Convert a picture of any mode to RGB, some rows at a time.

    Alpha is composited on white. Integers beyond 8 bit are scaled from the smallest of the usual
    depths (8, 10, 12, 14, 16 bit) that holds them, floats from 0..1 (a little more is cut off) or
    0..255. What goes beyond these, or below 0, is spread from the lowest to the highest (from 0,
    unless some are negative).

    Yields:
        The next rows from the top, [rows, width, 3].
    """
    rows = max(1, _STRIP_PIXELS // image.width)
    strips = [
        (0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)
    ]
    if image.mode == "F" or image.mode.startswith("I"):
        low, high = _value_range(image, strips)
        transparent = image.info.get("transparency")
        for strip in strips:
            numbers = _numbers(image, strip)
            shades = np.clip((numbers - low) / (high - low) * 255, 0, 255)
            if isinstance(transparent, int):
                shades[numbers == transparent] = 255
            yield np.repeat(shades.astype(np.uint8)[..., None], 3, axis=2)
        return
    for strip in strips:
        part = image.crop(strip)
        if part.mode != "RGB":
            if part.has_transparency_data:
                part = part.convert("RGBA")
                part = Image.alpha_composite(Image.new("RGBA", part.size, "white"), part)
            part = part.convert("RGB")
        yield np.asarray(part)


def _value_range(
    image: Image.Image, strips: list[tuple[int, int, int, int]]
) -> tuple[float, float]:
    """Choose the values that become black and white."""
    lowest, highest = 0.0, 0.0
    for strip in strips:
        numbers = _numbers(image, strip)
        lowest, highest = min(lowest, float(numbers.min())), max(highest, float(numbers.max()))
    if lowest < 0:
        return lowest, max(highest, lowest + 1e-9)
    if image.mode == "F":
        if highest < 2:
            return 0.0, 1.0
        return 0.0, 255.0 if 128 <= highest <= 255 else highest
    return 0.0, next((scale for scale in _FULL_SCALES if highest <= scale), highest)


def _numbers(image: Image.Image, strip: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """Read the numbers of some rows; those that are not finite count as 0."""
    numbers = np.asarray(image.crop(strip), dtype=np.float64)
    return np.nan_to_num(numbers, nan=0.0, posinf=0.0, neginf=0.0)
