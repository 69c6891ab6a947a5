"""Whether a file is a picture or a video, by its first bytes."""

from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

from visreplay.tools.types import ToolError, preview, regular_file

PICTURE_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis")
"""Brands of the pictures that are kept in the container of MP4."""

VIDEO_STARTS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMV
    b"OggS",
    b"\x00\x00\x01\xba",  # MPEG programme stream
    b"\x00\x00\x01\xb3",  # MPEG video
)


def media_kind(path: str | Path) -> Literal["image", "video"]:
    """Tell whether a file is a picture or a video. A picture that moves is a video.

    Raises:
        ToolError: There is no such file, or it is neither.
    """
    file = regular_file(path, "image or video")
    try:
        with file.open("rb") as opened:
            start = opened.read(4 * 188 + 1)
    except OSError as error:
        raise ToolError(f"{preview(str(path))} cannot be read: {error.strerror}") from error
    if start[4:8] == b"ftyp":
        return "image" if start[8:12] in PICTURE_BRANDS else "video"
    packets = start[: 4 * 188 : 188] == b"G" * 4  # an MPEG transport stream
    if packets or start.startswith(VIDEO_STARTS) or start[:4] + start[8:12] == b"RIFFAVI ":
        return "video"
    if start[4:8] in (b"moov", b"mdat", b"free", b"wide", b"skip"):  # MOV without a brand
        return "video"
    try:
        with Image.open(file) as picture:
            return "video" if getattr(picture, "is_animated", False) else "image"
    except UnidentifiedImageError as error:
        raise ToolError(
            f"{preview(str(path))} is neither an image nor a video that can be read"
        ) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "image"  # a damaged one, or one that is too large: whoever loads it says so
