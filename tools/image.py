"""Load images safely, convert boxes from every coordinate space, crop and zoom."""

import base64
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from visreplay.tools.files import OpenFile, open_bytes, open_file
from visreplay.tools.image_decoding import as_rgb, pillow_errors, upright
from visreplay.tools.media_budget import Budget
from visreplay.tools.media_pool import MAX_SECONDS, POOL
from visreplay.tools.types import Box, Size, ToolError, preview

MAX_PIXELS = 89_478_485
"""Pillow's own limit, above which it warns of decompression bombs; an 8K image has 33 million."""

Resample = Literal["area", "bicubic"]
"""How images are resized: see `TokenGrid`."""


def load_image(
    source: str | Path | bytes | Image.Image,
    *,
    max_pixels: int | None = None,
    name: str | None = None,
) -> Image.Image:
    """Load a raster image as upright RGB.

    EXIF orientation is applied, alpha is composited on white, and 16-bit and float values are
    scaled to 8 bit (see `rgb_strips`). The first frame of an animation is taken. A file is decoded
    in a process of its own, within limits of memory and time.

    Args:
        source: A path, the bytes of a file, or an image.
        max_pixels: Largest number of pixels; larger images are refused before they are decoded.
            None is `MAX_PIXELS` for a file, and no limit for an image, whose pixels are there.
        name: Name of the image in errors; by default its path.

    Raises:
        ToolError: The source is not a readable image, or too large.
    """
    if isinstance(source, Image.Image):
        with pillow_errors(name or "the image"):
            return as_rgb(upright(source, max_pixels))
    if isinstance(source, bytes):
        file = open_bytes(source, name or "the data")
    else:
        file = open_file(source, "image", name or repr(str(source)))
    with file:
        return decode_image(file, max_pixels=MAX_PIXELS if max_pixels is None else max_pixels)


def decode_image(
    file: OpenFile,
    *,
    max_pixels: int = MAX_PIXELS,
    seconds: float = MAX_SECONDS,
    budget: Budget | None = None,
) -> Image.Image:
    """Decode an open file as `load_image` does.

    Args:
        file: The file.
        max_pixels: Largest number of pixels.
        seconds: Time that it may take.
        budget: The limits of the caller, who may leave meanwhile.

    Raises:
        ToolError: The file is not a readable image, too large, or takes too long.
    """
    request = {"op": "image", "max_pixels": max_pixels}
    decoded = POOL.decode(request, file, seconds=seconds, budget=budget)
    return Image.frombytes("RGB", tuple(decoded.values["size"]), decoded.pixels)


def media_kind(path: str | Path) -> Literal["image", "video"]:
    """Tell by its content whether a file is a picture or a video; a GIF that moves is a video.

    Raises:
        ToolError: There is no such file, or it is neither, or a picture that cannot be read.
    """
    with open_file(path, "image or video") as file:
        kind: Literal["image", "video"] = POOL.decode({"op": "kind"}, file).values["kind"]
    return kind


def parse_box(
    values: object,
    extent: tuple[float, float],
    size: Size,
    *,
    min_side: int = 1,
    max_aspect: float = 200.0,
) -> Box:
    """Convert four numbers in any coordinate space into a box in pixels.

    A coordinate space is given by its extent, the coordinates of the far corner: the image size
    for pixels, (1, 1) for relative coordinates, (1000, 1000) for Qwen3's, (8, 8) for a grid. A box
    that crosses the edge of the image is clipped.

    Args:
        values: The model's [x1, y1, x2, y2]; it may be anything that JSON can hold.
        extent: Width and height of the coordinate space.
        size: Width and height of the image in pixels.
        min_side: Shortest side allowed, in pixels.
        max_aspect: Largest ratio of the longer to the shorter side.

    Raises:
        ToolError: The values are not a box with an area inside the image.
    """
    if not isinstance(values, list | tuple) or len(values) != 4:
        raise ToolError(f"a box is four numbers [x1, y1, x2, y2], not {preview(values)}")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise ToolError(f"a box is four numbers [x1, y1, x2, y2], not {preview(values)}")
    width, height = extent
    allowed = f"x goes from 0 to {width:g} and y from 0 to {height:g}"
    try:
        x1, y1, x2, y2 = (float(v) for v in values)
    except OverflowError as error:
        raise ToolError(f"a number of the box is too large; {allowed}") from error
    if not all(math.isfinite(v) for v in (x1, y1, x2, y2)):
        raise ToolError(f"the box {list(values)} is not finite; {allowed}")
    if x2 <= x1 or y2 <= y1:
        raise ToolError(f"the box {list(values)} has no area: x1 < x2 and y1 < y2 are needed")
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise ToolError(f"the box {list(values)} lies outside the image; {allowed}")
    left, right = _edges(x1, x2, width, size[0])
    top, bottom = _edges(y1, y2, height, size[1])
    box = Box(left, top, right, bottom)
    if min(box.width, box.height) < min_side:
        raise ToolError(
            f"the box is {box.width} x {box.height} px; each side must have at least {min_side} px"
        )
    if max(box.width, box.height) > max_aspect * min(box.width, box.height):
        raise ToolError(
            f"the box is {box.width} x {box.height} px; one side may be at most "
            f"{max_aspect:g} times the other"
        )
    return box


def _edges(near: float, far: float, extent: float, side: int) -> tuple[int, int]:
    """Find the whole pixels that cover [near, far] of `extent`, on a side of `side` pixels."""
    tolerance = 1e-6
    first = math.floor(max(near, 0) / extent * side + tolerance)
    last = math.ceil(min(far, extent) / extent * side - tolerance)
    first = min(first, side - 1)
    return first, min(max(last, first + 1), side)


def crop(image: Image.Image, box: Box) -> Image.Image:
    """Cut out the region of a box, pixel for pixel.

    Raises:
        ToolError: The box is not inside the image.
    """
    if not (0 <= box.left < box.right <= image.width and 0 <= box.top < box.bottom <= image.height):
        raise ToolError(
            f"the box {list(box.as_tuple())} is not inside the image of "
            f"{image.width} x {image.height} px"
        )
    return image.crop(box.as_tuple())


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """How a model cuts an image into visual tokens, and its pixel budget.

    Attributes:
        factor: Side of a visual token in pixels (28 for Qwen2.5-VL, 32 for Qwen3-VL).
        min_pixels: Smaller images are enlarged.
        max_pixels: Larger images are shrunk.
        resample: How images are resized: by OpenCV, area to shrink and Lanczos to enlarge ("area"),
            or by Pillow's bicubic filter, as most processors do ("bicubic").
    """

    factor: int = 28
    min_pixels: int = 56 * 56
    max_pixels: int = 16_384 * 28 * 28
    resample: Resample = "area"

    def capped(self, max_pixels: int) -> "TokenGrid":
        """Make the same grid with a budget of at most `max_pixels`."""
        return replace(self, max_pixels=min(self.max_pixels, max_pixels))

    def fit(self, size: Size) -> Size:
        """Compute the size at which the model sees an image, as Qwen's `smart_resize` does.

        Raises:
            ToolError: One side is more than 200 times the other.
        """
        width, height = size
        if max(size) > 200 * min(size):
            raise ToolError(
                f"the image is {width} x {height} px; one side may be at most 200 times the other"
            )
        rounded = [round(side / self.factor) * self.factor for side in size]
        pixels = rounded[0] * rounded[1]
        if pixels > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            rounded = [
                max(self.factor, math.floor(side / shrink / self.factor) * self.factor)
                for side in size
            ]
        elif pixels < self.min_pixels:
            enlarge = math.sqrt(self.min_pixels / (width * height))
            rounded = [math.ceil(side * enlarge / self.factor) * self.factor for side in size]
        return rounded[0], rounded[1]


def zoom(
    image: Image.Image, box: Box | None = None, *, grid: TokenGrid = TokenGrid()
) -> Image.Image:
    """Resize a region to a size that the model takes.

    Args:
        image: The image, RGB.
        box: The region; the whole image when None.
        grid: The model's token grid and pixel budget, and how to resize.
    """
    region = image if box is None else crop(image, box)
    size = grid.fit(region.size)
    if size == region.size:
        return region
    if grid.resample == "bicubic":
        return region.resize(size, Image.Resampling.BICUBIC)
    shrinks = size[0] * size[1] < region.width * region.height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return Image.fromarray(cv2.resize(np.asarray(region), size, interpolation=method))


def region_line(size: Size, box: Box, view: Size) -> str:
    """Describe a region of an image that is shown at some size, in one line for the model."""
    return (
        f"box {list(box.as_tuple())} px of the {size[0]} x {size[1]} px image, "
        f"shown at {view[0]} x {view[1]} px"
    )


def png_base64(image: Image.Image) -> str:
    """Encode an image as the base64 of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
