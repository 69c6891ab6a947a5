"""The visual tools for agents that are built on LangChain.

`visual_tools(store)` gives `crop`, `zoom` and `sample_frames` as LangChain tools. A model names an
image by its reference in the store, or by a path below `media_root`. The images that a tool makes
are put in the store. Their references come back as the artifact, and the content is standard
content blocks: a line of text with box, size and references, and the images.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.tools import BaseTool, ToolException
from langchain_core.tools import tool as langchain_tool
from PIL import Image

from visreplay.tools.image import TokenGrid, png_base64
from visreplay.tools.media import Media
from visreplay.tools.store import ImageStore
from visreplay.tools.types import ToolError
from visreplay.tools.visual_tools import FramesView, RegionView, VisualTools

Content = tuple[list[dict[str, Any]], list[str]]


def visual_tools(
    store: ImageStore, *, media_root: Path | None = None, grid: TokenGrid = TokenGrid()
) -> list[BaseTool]:
    """Make `crop`, `zoom` and `sample_frames` as LangChain tools.

    Args:
        store: Where images are looked up and put.
        media_root: The only folder whose files may be opened; None allows no files.
        grid: The token grid that `zoom` resizes to.
    """
    media = Media(store, () if media_root is None else (media_root,))
    tools = VisualTools(media, grid)
    return [_wrap(method, store) for method in (tools.crop, tools.zoom, tools.sample_frames)]


def _wrap(method: Callable[..., RegionView | FramesView], store: ImageStore) -> BaseTool:
    """Make a method of `VisualTools` a LangChain tool, whose schema is the method's signature."""

    def run(*args: Any, **kwargs: Any) -> Content:
        try:
            view = method(*args, **kwargs)
        except ToolError as error:
            raise ToolException(str(error)) from error
        references = [store.put(image) for image in view.images]
        line = f"{view.text} ({', '.join(references)})"
        blocks = [_image_block(image) for image in view.images]
        return [{"type": "text", "text": line}, *blocks], references

    run.__name__ = method.__name__
    run.__doc__ = method.__doc__
    run.__annotations__ = {**method.__annotations__, "return": Content}
    run.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    tool = langchain_tool(response_format="content_and_artifact")(run)
    tool.handle_tool_error = True
    tool.handle_validation_error = True
    return tool


def _image_block(image: Image.Image) -> dict[str, Any]:
    return {"type": "image", "base64": png_base64(image), "mime_type": "image/png"}
