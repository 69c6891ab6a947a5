"""The tools for agents that are built on LangChain.

`visual_tools(store)` gives `crop`, `zoom` and `sample_frames` as LangChain tools. A model refers
to an image by its reference in the store, or by a path below `media_root`; what a tool makes is
put in the store, its references come back as the artifact, and its content is standard content
blocks: a line of text with box, size and references, and the images.
"""

import base64
import inspect
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.tools import BaseTool, ToolException
from langchain_core.tools import tool as langchain_tool
from PIL import Image
from pydantic import StrictFloat, StrictInt

from visreplay.tools import image as images
from visreplay.tools import video as videos
from visreplay.tools.image import TokenGrid, load_image, parse_box
from visreplay.tools.store import ImageStore
from visreplay.tools.types import Box, ToolError

FRAME_SIDE = 768
"""Longest side of a frame that a tool shows, in pixels: dozens of them go into one message."""

Coordinate = StrictInt | StrictFloat
Result = tuple[str, list[Image.Image]]
Content = tuple[list[dict[str, Any]], list[str]]


def visual_tools(
    store: ImageStore, *, media_root: Path | None = None, grid: TokenGrid = TokenGrid()
) -> list[BaseTool]:
    """`crop`, `zoom` and `sample_frames` as LangChain tools.

    Args:
        store: Where images are looked up and put.
        media_root: The only folder whose files may be opened; none when None.
        grid: To which `zoom` fits what it shows.
    """

    def visual_tool(function: Callable[..., Result]) -> BaseTool:
        """Make a typed function that gives a line and images a LangChain tool."""

        def run(*args: Any, **kwargs: Any) -> Content:
            try:
                text, made = function(*args, **kwargs)
            except ToolError as error:
                raise ToolException(str(error)) from error
            references = [store.put(image) for image in made]
            blocks = [_image_block(image) for image in made]
            line = f"{text} ({', '.join(references)})"
            return [{"type": "text", "text": line}, *blocks], references

        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        run.__annotations__ = {**function.__annotations__, "return": Content}
        run.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        made = langchain_tool(response_format="content_and_artifact", parse_docstring=True)(run)
        made.handle_tool_error = True
        made.handle_validation_error = True
        return made

    def picture(name: str) -> Image.Image:
        try:
            return store.get(name)
        except (KeyError, ValueError):
            return load_image(_below(media_root, name))

    @visual_tool
    def crop(image: str, bbox: list[Coordinate]) -> Result:
        """Cut a region out of an image, pixel for pixel.

        Args:
            image: The image's reference or path.
            bbox: The region [x1, y1, x2, y2] in pixels of the image.
        """
        source = picture(image)
        box = parse_box(bbox, source.size, source.size)
        region = images.crop(source, box)
        return _line(source, box, region), [region]

    @visual_tool
    def zoom(image: str, bbox: list[Coordinate] | None = None) -> Result:
        """Look at a region of an image, or at all of it, at the best size for the model.

        Args:
            image: The image's reference or path.
            bbox: The region [x1, y1, x2, y2] in pixels of the image; all of it if left out.
        """
        source = picture(image)
        whole = [0, 0, *source.size]
        box = parse_box(whole if bbox is None else bbox, source.size, source.size)
        region = images.zoom(source, box, grid=grid)
        return _line(source, box, region), [region]

    @visual_tool
    def sample_frames(
        video: str,
        count: int | None = None,
        times: list[float] | None = None,
        around: float | None = None,
        window: float = 1.0,
        scenes: int | None = None,
    ) -> Result:
        """Show frames of a clip, chosen by exactly one of count, times, around and scenes.

        Args:
            video: The clip's path.
            count: So many, evenly over the clip (or over the window around a moment).
            times: At these times in seconds.
            around: Around this time in seconds.
            window: Length in seconds of the window around that time.
            scenes: The starts of at most so many scenes.
        """
        frames = videos.sample_frames(
            _below(media_root, video),
            count=count,
            times=times,
            around=around,
            window=window,
            scenes=scenes,
            max_side=FRAME_SIDE,
        )
        text = "frames at " + ", ".join(f"{frame.time:.2f} s" for frame in frames)
        return text, [frame.image for frame in frames]

    return [crop, zoom, sample_frames]


def _below(root: Path | None, name: str) -> Path:
    """The file of a name below the root, links followed.

    Raises:
        ToolError: If the file lies elsewhere, or no root is given.
    """
    if root is None:
        raise ToolError(f"there is no image {name!r:.80}; name one that was shown")
    path = Path(os.path.realpath(root / name.replace("\0", "")))
    if not path.is_relative_to(root.resolve()):
        raise ToolError(f"{name!r:.80} is outside the folder that may be read")
    return path


def _line(source: Image.Image, box: Box, region: Image.Image) -> str:
    return (
        f"box {list(box.as_tuple())} px of the {source.width} x {source.height} px image, "
        f"shown at {region.width} x {region.height} px"
    )


def _image_block(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image", "base64": data, "mime_type": "image/png"}
