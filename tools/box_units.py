"""Refuse boxes in other units than are meant: in shares of an image, or in its pixels."""

from visreplay.tools.types import ToolError

_SPECK = 28
"""Pixels of a side up to which a single pixel may be worth a look."""


def refuse_shares(bbox: object, extent: tuple[float, float]) -> None:
    """Refuse a box in shares of the image (0 to 1) where coordinates go further.

    Such a box would be a pixel or two. [0, 0, 1, 1] is refused too, unless the image is tiny: it
    could be its first pixel, but is meant as the whole.

    Args:
        bbox: The box as the model wrote it; what is no box is left to `parse_box`.
        extent: Width and height of the box's coordinate space.

    Raises:
        ToolError: The box is in shares.
    """
    values = _four_numbers(bbox)
    if values is None or not 0 <= min(values) <= max(values) < 2:
        return
    whole = all(value in (0, 1) for value in values)
    if min(extent) > _SPECK if whole else max(extent) > 2:
        width, height = extent
        raise ToolError(
            f"the box {list(values)} is in shares of the image, but here x goes from 0 to "
            f"{width:g} and y from 0 to {height:g}: multiply x by {width:g} and y by {height:g}"
        )


def refuse_pixels(bbox: object) -> None:
    """Refuse a box in pixels where shares of the image (0 to 1) are meant.

    It would be cut at the edges of the image, and come to all of it. What is a little over 1 is
    only cut.

    Args:
        bbox: The box as the model wrote it; what is no box is left to `parse_box`.

    Raises:
        ToolError: The box is in pixels.
    """
    values = _four_numbers(bbox)
    if values is not None and max(values) >= 2:
        raise ToolError(
            f"the box {list(values)} is not in shares of the image: x goes from 0 to 1 and y from "
            "0 to 1; divide x by the width and y by the height"
        )


def _four_numbers(bbox: object) -> list[float] | None:
    if not isinstance(bbox, list) or len(bbox) != 4:
        return None
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in bbox)
    return bbox if numbers and abs(max(bbox, key=abs)) < 1e12 else None
