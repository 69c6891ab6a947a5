"""Crops of pictures, and crops of crops out of the picture that the first was cut from."""

from collections.abc import Sequence

from PIL import Image

from visreplay.agent.state import Observation
from visreplay.tools import Box, ImageStore, TokenGrid, parse_box, zoom
from visreplay.tools.image import region_line


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
