"""Crops of pictures, and crops of crops out of the picture that the first was cut from."""

from collections.abc import Sequence

from PIL import Image

from visreplay.agent.state import Observation
from visreplay.tools import Box, ImageStore, TokenGrid, parse_box, zoom
from visreplay.tools.image import region_line


def cropped(
    store: ImageStore,
    reference: str,
    bbox: object,
    extent: tuple[float, float] | None,
    grid: TokenGrid,
    seen: Sequence[Observation],
    *,
    min_side: int = 1,
    max_aspect: float = 200.0,
) -> Observation:
    """What a box in an image shows.

    A crop that was shown enlarged or shrunk is not cropped itself: its pixels are taken from the
    picture that it was cut from, whose detail it may have lost.

    Args:
        store: Holds the image, and gets the crop.
        reference: Of the image.
        bbox: What the model wrote.
        extent: Of the box's coordinate space; the image's pixels when None.
        grid: To which the crop is fitted.
        seen: What the episode's earlier calls gave.
        min_side: Shortest side allowed, in pixels of the picture.
        max_aspect: Largest ratio of the longer to the shorter side.

    Raises:
        ToolError: If the box is none.
    """
    image = store.get(reference)
    root, whole = _origin(reference, seen) or (reference, Box(0, 0, *image.size))
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
    shown = zoom(store.get(root), region, grid=grid)
    observation = crop_observation(
        reference, image, parse_box(bbox, extent, image.size), shown, store
    )
    if root != reference:
        observation |= {"root": root, "region": list(region.as_tuple())}
    return observation


def crop_observation(
    reference: str, image: Image.Image, box: Box, shown: Image.Image, store: ImageStore
) -> Observation:
    """The observation of a crop.

    Args:
        reference: Of the image.
        image: It was cropped.
        box: To this box.
        shown: As the policy is shown it.
        store: Gets the crop.
    """
    return {
        "text": region_line(image.size, box, shown.size),
        "images": [store.put(shown)],
        "box": list(box.as_tuple()),
        "source": reference,
    }


def _origin(reference: str, seen: Sequence[Observation]) -> tuple[str, Box] | None:
    """The picture that a crop was cut from in the end, and where in it the crop lies."""
    for observation in reversed(seen):
        if reference in observation["images"] and "source" in observation:
            root = observation.get("root", observation["source"])
            left, top, right, bottom = observation.get("region", observation["box"])
            return root, Box(left, top, right, bottom)
    return None
