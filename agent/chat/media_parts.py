"""Content blocks of untrusted messages as parts: text, images and videos.

A block is a text, an image or a video, the media by a URL (a data URI, `visreplay:` and a
reference into the store, or what the `Media` allows besides) or as base64:

    {"type": "text", "text": "What is it?"}
    {"type": "image", "url": "data:image/png;base64,..."}   or "base64" instead of "url"
    {"type": "video", "url": "data:video/mp4;base64,..."}   or "base64" instead of "url"
    {"type": "video", "frames": [image URLs], "times": [seconds]}   perhaps with "step_seconds"

An image may have limits of its own: "min_pixels" and "max_pixels", or OpenAI's "detail". Other
settings of size and time, such as Qwen's "resized_height" and "fps", are refused by name. Media
also come in the forms of other interfaces:

    {"type": "image_url", "image_url": {"url": ...}}           OpenAI's; "video_url" likewise
    {"type": "image_url", "image_url": URL}                    LangChain's short form of it
    {"type": "input_image", "image_url": URL}                  OpenAI's for responses
    {"type": "file", "file": {"file_data": data URI}}          OpenAI's; also "input_file"
    {"type": "image", "source": {"data": base64}}              Anthropic's; also "document"
    {"type": "image", "data": base64}                          MCP's, and LangChain's before 1.0
    {"type": "file", "base64": ..., "mime_type": "image/png"}  LangChain's for any file
    {"type": "media", "data": ..., "mime_type": "image/png"}   Google's
    {"type": "image", "image": URL}                            Qwen's; "video" likewise
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from visreplay.agent.messages import Part, VideoPart, image, text
from visreplay.tools import DecodedVideo, Media, TokenGrid, ToolError, zoom
from visreplay.tools.data_uri import is_data_uri
from visreplay.tools.types import preview

T = TypeVar("T")

MAX_SECONDS = 1e9
"""Limit of the times of a video in seconds: positions follow them, and are whole numbers."""

LOW_DETAIL = 512 * 512
"""Pixels of an image of low detail, as OpenAI has it."""

_KINDS = {
    **dict.fromkeys(("image", "image_url", "input_image"), "image"),
    **dict.fromkeys(("video", "video_url", "input_video"), "video"),
}
_FILES = ("file", "input_file", "media", "document")
_TEXTS = ("text", "input_text", "output_text", "text-plain")
# A block has at most one of these: an object with more fields, or a URL.
_NESTED = ("source", "image_url", "video_url", "file", "image", "video")
_BASE64 = ("base64", "data", "file_data")
_URLS = ("url", "file_data", "file_url", "file_uri")
_MEDIA_TYPES = ("mime_type", "media_type", "mimeType")
_IMAGE_LIMITS = ("min_pixels", "max_pixels", "detail")
_FRAME_FIELDS = ("frames", "times", "step_seconds")
_SETTINGS = (
    *(*_IMAGE_LIMITS, "total_pixels", "resized_height", "resized_width", "media_resolution"),
    *(*_FRAME_FIELDS, "fps", "nframes", "min_frames", "max_frames", "sample_fps", "raw_fps"),
    *("video_start", "video_end", "video_metadata"),
)
"""What the interfaces above call settings of size and time; those without effect are refused."""


def read_part(
    block: Mapping[str, Any], media: Media, grid: TokenGrid, frame_grid: TokenGrid
) -> Part:
    """Read a block, and put its images into the store.

    Args:
        block: A block in one of the forms above.
        media: What the block may refer to.
        grid: The grid of images, within which a block may set limits of its own.
        frame_grid: The grid to which the frames of a video are fitted, unless the block lists them.

    Raises:
        ToolError: The policy cannot be shown it.
    """
    match block:
        case {"type": kind, "text": str(words)} if kind in _TEXTS:
            return text(words)
        case {"type": "video", "frames": list(frames), "times": list(times)}:
            source = _flattened(block)
            if file := next((key for key in (*_BASE64, *_URLS) if source.get(key)), None):
                raise ToolError(
                    f"a video has listed frames and {file!r} too: send its frames or its file"
                )
            _check_settings(
                source,
                _FRAME_FIELDS,
                "a video of listed frames has no setting",
                "the frames are shown as they are, at their times",
            )
            return _listed_frames(frames, times, block.get("step_seconds"), media)
    source = _flattened(block)
    kind = _kind_of(block, source)
    if kind == "image":
        _check_settings(
            source,
            _IMAGE_LIMITS,
            "an image has no setting",
            "its limits are min_pixels and max_pixels",
        )
        limits = {name: source.get(name) for name in _IMAGE_LIMITS}
        reference = _read(media.reference, block, source)
        return image(fitted_image(reference, media, grid, **limits))
    _check_settings(
        source,
        (),
        "a video has no setting",
        "two frames a second are taken, or those that are sent as "
        '{"type": "video", "frames": [image URLs], "times": [seconds]}',
    )
    return sampled_video(_read(partial(media.video, grid=frame_grid), block, source))


def image_reference(block: Mapping[str, Any], media: Media) -> str:
    """The reference of a block's image, which is put into the store if it is not there.

    Raises:
        ToolError: The block has no image, or none that may be read.
    """
    return _read(media.reference, block, _flattened(block))


def fitted_image(
    reference: str,
    media: Media,
    grid: TokenGrid,
    *,
    min_pixels: Any = None,
    max_pixels: Any = None,
    detail: Any = None,
) -> str:
    """Fit an image to the limits that a message sets for it.

    Args:
        reference: The image's reference in the store.
        media: Has the store, and counts pixels.
        grid: The grid of images: no limit may lie outside it.
        min_pixels: The image is enlarged to so many pixels, up to one token.
        max_pixels: The image is shrunk to so many pixels.
        detail: OpenAI's setting: "low" shrinks the image to `LOW_DETAIL` pixels.

    Returns:
        The reference of the fitted image; the same one where the message sets no limit.

    Raises:
        ToolError: A limit is no number of pixels, or lies outside the grid.
    """
    if detail not in (None, "auto", "low", "high", "original"):
        raise ToolError(f"detail is {preview(detail)}; it is auto, low, high or original")
    if detail == "low" and max_pixels is None:
        max_pixels = max(LOW_DETAIL, grid.min_pixels)
    if min_pixels is None and max_pixels is None:
        return reference
    least = _limit("min_pixels", min_pixels, grid.min_pixels)
    most = _limit("max_pixels", max_pixels, grid.max_pixels)
    if not max(least, grid.min_pixels) <= min(most, grid.max_pixels):
        raise ToolError(
            f"an image of {least} to {most} pixels cannot be shown: the policy is shown images of "
            f"{grid.min_pixels} to {grid.max_pixels}"
        )
    own = replace(
        grid, min_pixels=max(least, grid.min_pixels), max_pixels=min(most, grid.max_pixels)
    )
    picture = media.image(reference)
    width, height = own.fit(picture.size)
    if media.budget:
        media.budget.spend(width * height)
    return media.store.put(zoom(picture, grid=own))


def sampled_video(video: DecodedVideo) -> VideoPart:
    """Make the part of a decoded video, whose frames are in the store."""
    return {"type": "video", "frames": list(video.frames), "times": list(video.times)}


def _check_settings(
    source: Mapping[str, Any], known: Sequence[str], problem: str, instead: str
) -> None:
    """Refuse a setting that would be ignored; "auto" is what happens without one."""
    for setting in _SETTINGS:
        if setting not in known and source.get(setting) not in (None, "auto"):
            raise ToolError(f"{problem} {setting!r} here: {instead}")


def _limit(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if type(value) is not int or value < 1:
        raise ToolError(f"{name} is {preview(value)}, but must be a number of pixels")
    return value


def _flattened(block: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a block, those of the object in it among them; a bare URL becomes `url`."""
    extras = block.get("extras")
    flat = {**(extras if isinstance(extras, Mapping) else {}), **block}
    for name in _NESTED:
        nested = flat.pop(name, None)
        if isinstance(nested, Mapping):
            flat.update(nested)
        elif isinstance(nested, str):
            flat["url"] = nested
    return flat


def _kind_of(block: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    """Tell whether a block has an image or a video: by its type, or the type of its file."""
    name = block.get("type")
    if isinstance(name, str) and name in _KINDS:
        return _KINDS[name]
    problem = "text, images and videos can be"
    if name in _FILES:
        types = [source[key] for key in _MEDIA_TYPES if isinstance(source.get(key), str)]
        urls = [source[key] for key in _URLS if isinstance(source.get(key), str)]
        types += [url.lstrip()[5:].partition(",")[0] for url in urls if is_data_uri(url)]
        media_type = next(iter(types), "").partition(";")[0].strip().lower()
        if (kind := media_type.partition("/")[0]) in ("image", "video"):
            return kind
        problem = (
            f"it is a file of type {preview(media_type)}, and only images and videos can be"
            if media_type
            else 'nothing says what it is: give "mime_type", image/png or video/mp4, say'
        )
    raise ToolError(
        f"a block of type {preview(name)} cannot be shown: {problem}; videos also as "
        '{"type": "video", "frames": [image URLs], "times": [seconds]}'
    )


def _listed_frames(
    frames: Sequence[Any], times: Sequence[Any], step_seconds: Any, media: Media
) -> VideoPart:
    if not frames or len(frames) != len(times):
        raise ToolError(f"a video has {len(frames)} frames and {len(times)} times")
    if not all(map(_is_time, times)):
        raise ToolError(f"the times of a video are seconds, not {preview(times)}")
    if step_seconds is not None and not (_is_time(step_seconds) and step_seconds >= 0):
        raise ToolError(f"step_seconds is {preview(step_seconds)}, but must be 0 or more seconds")
    references = [_read(media.reference, {"type": "frame"}, {"url": frame}) for frame in frames]
    if len({media.image(reference).size for reference in references}) > 1:
        raise ToolError("the frames of a video must have one size")
    part: VideoPart = {"type": "video", "frames": references, "times": list(times)}
    return part if step_seconds is None else {**part, "step_seconds": step_seconds}


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and bool(abs(value) < MAX_SECONDS)


def _read(read: Callable[..., T], block: Mapping[str, Any], source: Mapping[str, Any]) -> T:
    """Read the base64 or the URL of a block."""
    data = next((source[key] for key in _BASE64 if source.get(key) is not None), None)
    if isinstance(data, bytes):
        return read(base64=b64encode(data).decode())
    if isinstance(data, str):
        return read(data) if is_data_uri(data) else read(base64=data)
    url = next((source[key] for key in _URLS if source.get(key) is not None), None)
    if data is None and isinstance(url, str):
        return read(url)
    named = "; a file_id names a file of another service" if "file_id" in source else ""
    raise ToolError(
        f"a block of type {preview(block.get('type'))} cannot be shown: it has neither base64 nor "
        f"a URL{named}"
    )
