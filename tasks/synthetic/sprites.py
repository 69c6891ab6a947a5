"""The sprites of the synthetic tasks: each is rendered once and pasted many times."""

from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Rgb = tuple[int, int, int]
Shape = Literal["disc", "square", "diamond"]

SHAPES: tuple[Shape, ...] = ("disc", "square", "diamond")

CHARACTERS = "ABCDEFGHJKLMNPRSTUXZ"
"""The 20 characters that markers carry, so chance is 5 %; I, O, Q, V, W, Y look too much alike."""

COLOURS: dict[str, Rgb] = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (52, 92, 220),
    "yellow": (236, 200, 40),
    "purple": (150, 60, 190),
    "orange": (240, 130, 30),
}


@lru_cache(maxsize=256)
def shape_mask(shape: Shape, side: int) -> Pixels:
    """Draw a filled shape as antialiased coverage, `(side, side)`, 0 to 255."""
    oversampled = Image.new("L", (4 * side, 4 * side))
    draw = ImageDraw.Draw(oversampled)
    far = 4 * side - 1
    if shape == "disc":
        draw.ellipse((0, 0, far, far), fill=255)
    elif shape == "square":
        inset = side // 4
        draw.rectangle((inset, inset, far - inset, far - inset), fill=255)
    else:
        middle = far / 2
        draw.polygon([(middle, 0), (far, middle), (middle, far), (0, middle)], fill=255)
    return np.asarray(oversampled.resize((side, side), Image.Resampling.BOX))


@lru_cache(maxsize=256)
def glyph_mask(character: str, height: int) -> Pixels:
    """Draw a character as coverage, 0 to 255, about `height` pixels tall, in Pillow's own font."""
    font = ImageFont.load_default(size=round(height / 0.7))
    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, font=font, fill=255, stroke_width=0.4)
    return np.asarray(image)


def paste(canvas: Pixels, mask: Pixels, centre: tuple[int, int], colour: Rgb) -> None:
    """Paint `colour` through `mask` onto `canvas`, in place.

    Args:
        canvas: An RGB picture, `(height, width, 3)`.
        mask: Coverage, 0 to 255; it must lie inside the canvas.
        centre: The centre of the mask, (x, y) in pixels of the canvas.
        colour: The RGB colour, 0 to 255.
    """
    height, width = mask.shape
    left, top = centre[0] - width // 2, centre[1] - height // 2
    region = canvas[top : top + height, left : left + width]
    alpha = (mask.astype(np.float32) / 255)[..., None]
    region[...] = (region * (1 - alpha) + np.asarray(colour, np.float32) * alpha + 0.5).astype(
        np.uint8
    )


@lru_cache(maxsize=8)
def gradient(side: int) -> Pixels:
    """Draw a background `(side, side, 3)`: red grows to the right and blue grows downwards."""
    ramp = np.linspace(40, 120, 16, dtype=np.float32)
    corners = np.empty((16, 16, 3), np.float32)
    corners[..., 0] = ramp[None, :]
    corners[..., 1] = 70
    corners[..., 2] = ramp[:, None]
    return cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
