"""The tools for agents that are built on LangChain.

`visual_tools(store)` gives `crop`, `zoom` and `sample_frames` as LangChain tools. A model refers
to an image by its reference in the store, or by a path below `media_root`; what a tool makes is
put in the store, its references come back as the artifact, and its content is standard content
blocks: a line of text with box, size and references, and the images.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.tools import BaseTool, ToolException
from langchain_core.tools import tool as langchain_tool
from PIL import Image
from pydantic import StrictFloat, StrictInt

from visreplay.tools import image as images
from visreplay.tools import video as videos
from visreplay.tools.image import TokenGrid, parse_box, png_base64, region_line
from visreplay.tools.media import Media
from visreplay.tools.store import ImageStore
from visreplay.tools.types import ToolError

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
    media = Media(store, () if media_root is None else (media_root,))

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

    @visual_tool
    def crop(image: str, bbox: list[Coordinate]) -> Result:
        """Cut a region out of an image, pixel for pixel.

        Args:
            image: The image's reference or path.
            bbox: The region [x1, y1, x2, y2] in pixels of the image.
        """
        source = media.image(image)
        box = parse_box(bbox, source.size, source.size)
        region = images.crop(source, box)
        return region_line(source.size, box, region.size), [region]

    @visual_tool
    def zoom(image: str, bbox: list[Coordinate] | None = None) -> Result:
        """Look at a region of an image, or at all of it, at the best size for the model.

        Args:
            image: The image's reference or path.
            bbox: The region [x1, y1, x2, y2] in pixels of the image; all of it if left out.
        """
        source = media.image(image)
        whole = [0, 0, *source.size]
        box = parse_box(whole if bbox is None else bbox, source.size, source.size)
        region = images.zoom(source, box, grid=grid)
        return region_line(source.size, box, region.size), [region]

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
            media.file(video, "clip"),
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


def _image_block(image: Image.Image) -> dict[str, Any]:
    return {"type": "image", "base64": png_base64(image), "mime_type": "image/png"}
