"""Crops of pictures, and crops of crops out of the picture that the first was cut from."""

from collections.abc import Sequence

from PIL import Image

from visreplay.agent.state import Observation
from visreplay.tools import Box, ImageStore, TokenGrid, ToolError, parse_box, zoom
from visreplay.tools.image import region_line

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


def crop_region(
    store: ImageStore,
    reference: str,
    bbox: object,
    extent: tuple[float, float] | None,
    grid: TokenGrid,
    earlier: Sequence[Observation],
    *,
    min_side: int = 1,
    max_aspect: float = 200.0,
) -> Observation:
    """Crop an image to the box that a model wrote.

    If the image is itself a crop, which may have lost detail when it was enlarged or shrunk, the
    pixels are taken from the picture that it was cut from.

    Args:
        store: The store that holds the image; the crop is put there.
        reference: Reference of the image.
        bbox: The box as the model wrote it.
        extent: Width and height of the box's coordinate space; None takes the image's pixels.
        grid: The token grid that the crop is resized to.
        earlier: The episode's observations so far.
        min_side: Shortest side allowed, in pixels of the picture.
        max_aspect: Largest ratio of the longer to the shorter side.

    Raises:
        ToolError: The box is not valid.
    """
    image = store.get(reference)
    root, whole = _origin(reference, earlier) or (reference, Box(0, 0, *image.size))
    extent = extent or image.size
    inner = parse_box(
        bbox, extent, (whole.width, whole.height), min_side=min_side, max_aspect=max_aspect
    )
    region = Box(
        whole.left + inner.left,
        whole.top + inner.top,
        whole.left + inner.right,
        whole.top + inner.bottom,
    )
    crop = zoom(store.get(root), region, grid=grid)
    box = parse_box(bbox, extent, image.size)
    observation = crop_observation(reference, image, box, crop, store)
    if root != reference:
        observation |= {"root": root, "region": list(region.as_tuple())}
    return observation


def crop_observation(
    reference: str, image: Image.Image, box: Box, crop: Image.Image, store: ImageStore
) -> Observation:
    """Build the observation of a crop.

    Args:
        reference: Reference of the image.
        image: The image that was cropped.
        box: The region, in pixels of the image.
        crop: The region as the policy sees it.
        store: The store that the crop is put in.
    """
    return {
        "text": region_line(image.size, box, crop.size),
        "images": [store.put(crop)],
        "box": list(box.as_tuple()),
        "source": reference,
    }


def _origin(reference: str, earlier: Sequence[Observation]) -> tuple[str, Box] | None:
    """Find the picture that a crop's pixels came from, and the crop's place in it."""
    for observation in reversed(earlier):
        if reference in observation["images"] and "source" in observation:
            root = observation.get("root", observation["source"])
            left, top, right, bottom = observation.get("region", observation["box"])
            return root, Box(left, top, right, bottom)
    return None
