"""Content blocks of untrusted messages as parts: text, images and videos.

A block is a text, an image or a video, the media by a URL (a data URI, `visreplay:` and a
reference into the store, or what the `Media` allows besides) or as base64:

    {"type": "text", "text": "What is it?"}
    {"type": "image", "url": "data:image/png;base64,..."}   or "base64" instead of "url"
    {"type": "video", "url": "data:video/mp4;base64,..."}   or "base64" instead of "url"
    {"type": "video", "frames": [image URLs], "times": [seconds]}   perhaps with "step_seconds"

Media also come in the forms of other interfaces:

    {"type": "image_url", "image_url": {"url": ...}}           OpenAI's; "video_url" likewise
    {"type": "image", "source": {"data": base64}}              Anthropic's
    {"type": "image", "data": base64}                          LangChain's before its version 1
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from visreplay.agent.messages import Part, VideoPart, image, text
from visreplay.tools import DecodedVideo, Media, TokenGrid, ToolError
from visreplay.tools.types import preview

T = TypeVar("T")

MAX_SECONDS = 1e9
"""Limit of the times of a video in seconds: positions follow them, and are whole numbers."""


def read_part(block: Mapping[str, Any], media: Media, grid: TokenGrid) -> Part:
    """Read a block, and put its images into the store.

    Args:
        block: A block in one of the forms above.
        media: What the block may refer to.
        grid: The grid to which the frames of a video are fitted, unless the block lists them.

    Raises:
        ToolError: The policy cannot be shown it.
    """
    match block:
        case {"type": "text", "text": str(words)}:
            return text(words)
        case {"type": "image"}:
            return image(image_reference(block, media))
        case {"type": "image_url", "image_url": {"url": url}}:
            return image(image_reference({"url": url}, media))
        case {"type": "video", "frames": list(frames), "times": list(times)}:
            return _listed_frames(frames, times, block.get("step_seconds"), media)
        case {"type": "video"}:
            return _sampled_frames(block, media, grid)
        case {"type": "video_url", "video_url": {"url": url}}:
            return _sampled_frames({"url": url}, media, grid)
    raise ToolError(
        f"a block of type {preview(block.get('type'))} cannot be shown: text, images and videos "
        'can be, also videos as {"type": "video", "frames": [image URLs], "times": [seconds]}'
    )


def image_reference(block: Mapping[str, Any], media: Media) -> str:
    """The reference of a block's image, which is put into the store if it is not there.

    Raises:
        ToolError: The block has no image, or none that may be read.
    """
    return _read(media.reference, block, "an image")


def sampled_video(video: DecodedVideo) -> VideoPart:
    """Make the part of a decoded video, whose frames are in the store."""
    return {"type": "video", "frames": list(video.frames), "times": list(video.times)}


def _sampled_frames(block: Mapping[str, Any], media: Media, grid: TokenGrid) -> VideoPart:
    return sampled_video(_read(partial(media.video, grid=grid), block, "a video"))


def _listed_frames(
    frames: Sequence[Any], times: Sequence[Any], step_seconds: Any, media: Media
) -> VideoPart:
    if not frames or len(frames) != len(times):
        raise ToolError(f"a video has {len(frames)} frames and {len(times)} times")
    if not all(map(_is_time, times)):
        raise ToolError(f"the times of a video are seconds, not {preview(times)}")
    if step_seconds is not None and not (_is_time(step_seconds) and step_seconds >= 0):
        raise ToolError(f"step_seconds is {preview(step_seconds)}, but must be 0 or more seconds")
    references = [_read(media.reference, {"url": frame}, "a frame") for frame in frames]
    if len({media.image(reference).size for reference in references}) > 1:
        raise ToolError("the frames of a video must have one size")
    part: VideoPart = {"type": "video", "frames": references, "times": list(times)}
    return part if step_seconds is None else {**part, "step_seconds": step_seconds}


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and bool(abs(value) < MAX_SECONDS)


def _read(read: Callable[..., T], block: Mapping[str, Any], what: str) -> T:
    """Read the base64 or the URL of a block."""
    source = block["source"] if isinstance(block.get("source"), Mapping) else block
    data, url = source.get("base64", source.get("data")), source.get("url")
    if isinstance(data, str):
        return read(base64=data)
    if data is None and isinstance(url, str):
        return read(url)
    raise ToolError(f"{what} has neither base64 nor a URL")
