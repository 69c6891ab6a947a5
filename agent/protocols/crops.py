"""Crops of pictures, and crops of crops out of the picture that the first was cut from."""

from collections.abc import Sequence

from visreplay.agent.state import Observation
from visreplay.tools import Box, ImageStore, TokenGrid, parse_box, zoom


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
    extent = extent or image.size
    root, whole = traced(store, reference, seen)
    inner = parse_box(
        bbox, extent, (whole.width, whole.height), min_side=min_side, max_aspect=max_aspect
    )
    box = inner if root == reference else parse_box(bbox, extent, image.size)
    region = zoom(store.get(root), _moved(inner, whole), grid=grid)
    return {
        "text": f"box {list(box.as_tuple())} px of the {image.width} x {image.height} px "
        f"image, shown at {region.width} x {region.height} px",
        "images": [store.put(region)],
        "box": list(box.as_tuple()),
        "source": reference,
    }


def traced(store: ImageStore, reference: str, seen: Sequence[Observation]) -> tuple[str, Box]:
    """The picture that an image was cut from in the end, and where in it the image lies."""
    for number, observation in reversed(list(enumerate(seen))):
        # A crop of all of an image may be that image, and so its own source.
        if reference in observation["images"] and reference != observation.get("source"):
            if "source" not in observation or "box" not in observation:
                break
            source = observation["source"]
            root, whole = traced(store, source, seen[:number])
            inner = parse_box(
                observation["box"], store.get(source).size, (whole.width, whole.height)
            )
            return root, _moved(inner, whole)
    image = store.get(reference)
    return reference, Box(0, 0, image.width, image.height)


def _moved(inner: Box, whole: Box) -> Box:
    """A box in a region, as a box in the picture that the region is of."""
    return Box(
        whole.left + inner.left,
        whole.top + inner.top,
        whole.left + inner.right,
        whole.top + inner.bottom,
    )
