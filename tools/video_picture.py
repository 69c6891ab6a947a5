"""Bring the frames of a video to the shape in which a player shows them."""

from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

_TURNS = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""Turns by the signs of a display matrix: of x in x and y, and of y in x and y."""


def as_shown(picture: Image.Image, aspect: Fraction, matrix: Any) -> Image.Image:
    """Bring a frame to square pixels, and turn it upright.

    Args:
        picture: The frame as it is stored.
        aspect: The width of a pixel in its heights.
        matrix: The bytes of the frame's display matrix; None if it has none.
    """
    shown = shown_size(*picture.size, aspect)
    if shown != picture.size:
        picture = picture.resize(shown, Image.Resampling.BICUBIC)
    turn = None if matrix is None else _turn(bytes(matrix))
    return picture if turn is None else picture.transpose(turn)


def shown_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Compute the size with square pixels; the shorter side of a pixel is the unit."""
    if aspect > 1:
        return round(width * aspect), height
    return width, round(height / aspect)


def _turn(data: bytes) -> Image.Transpose | None:
    """Choose how a frame is turned or mirrored to be upright; None if it is."""
    matrix = np.frombuffer(data, np.int32)[[0, 1, 3, 4]].astype(np.int64)
    # Angles between are rounded to quarters.
    large = np.abs(matrix) > np.abs(matrix).max() / 2
    right, down, left, up = (np.sign(matrix) * large).tolist()
    return _TURNS.get((right, down, left, up))
