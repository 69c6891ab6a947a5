"""What the blocks of a message show: text, images and clips, in each form that clients send."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from visreplay.agent.messages import Part, VideoPart, image, text
from visreplay.tools import Media, TokenGrid, ToolError
from visreplay.tools.types import preview

T = TypeVar("T")


def part_of(block: Mapping[str, Any], media: Media, grid: TokenGrid) -> Part:
    """What a block shows, whose images are put in the store.

    Args:
        block: One of LangChain's standard blocks, or one that LangChain leaves as it is:
            `{"type": "video_url", "video_url": {"url": ...}}`, or frames of a clip,
            `{"type": "video", "frames": [image URLs], "times": [seconds]}`.
        media: What it may name.
        grid: To which the frames of a clip are fitted that comes as one.

    Raises:
        ToolError: If it cannot be shown.
    """
    match block:
        case {"type": "text", "text": str(words)}:
            return text(words)
        case {"type": "image"}:
            return image(image_reference(block, media))
        case {"type": "video", "frames": list(frames), "times": list(times)}:
            return _frames(frames, times, media)
        case {"type": "video"}:
            return _clip(block, media, grid)
        case {"type": "non_standard", "value": {"type": "video_url", "video_url": {"url": url}}}:
            return _clip({"url": url}, media, grid)
    kind = block["value"].get("type") if block["type"] == "non_standard" else block["type"]
    raise ToolError(
        f"a block of type {preview(kind)} cannot be shown: text, images and clips can be, also "
        'clips as {"type": "video", "frames": [image URLs], "times": [seconds]}'
    )


def image_reference(block: Mapping[str, Any], media: Media) -> str:
    """The reference of a block's image, which is put in the store if it is not there.

    Raises:
        ToolError: If there is none in it, or none that may be read.
    """
    return _read(media.reference, block, "an image")


def _clip(block: Mapping[str, Any], media: Media, grid: TokenGrid) -> VideoPart:
    clip = _read(partial(media.video, grid=grid), block, "a clip")
    return {"type": "video", "frames": list(clip.frames), "times": list(clip.times)}


def _frames(frames: Sequence[Any], times: Sequence[Any], media: Media) -> VideoPart:
    if not frames or len(frames) != len(times):
        raise ToolError(f"a clip has {len(frames)} frames and {len(times)} times")
    if not all(type(time) in (int, float) and math.isfinite(time) for time in times):
        raise ToolError(f"the times of a clip are seconds, not {preview(times)}")
    references = [_read(media.reference, {"url": frame}, "a frame") for frame in frames]
    if len({media.image(reference).size for reference in references}) > 1:
        raise ToolError("the frames of a clip must have one size")
    return {"type": "video", "frames": references, "times": list(times)}


def _read(read: Callable[..., T], block: Mapping[str, Any], what: str) -> T:
    """What is made of the base64 or the URL that a block has."""
    # Anthropic's images have a source, which LangChain leaves as it is; LangChain's old blocks
    # have data.
    source = block["source"] if isinstance(block.get("source"), Mapping) else block
    data, url = source.get("base64", source.get("data")), source.get("url")
    if isinstance(data, str):
        return read(base64=data)
    if data is None and isinstance(url, str):
        return read(url)
    raise ToolError(f"{what} has neither base64 nor a URL")
