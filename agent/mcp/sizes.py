"""Results that fit into a message: clients on a desktop take no larger ones than 1 MiB."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from mcp.types import ImageContent
from PIL import Image

MAX_RESULT = 1_000_000
"""Bytes of a whole result as JSON, below the 1 MiB of clients to leave room for what is around."""

WORDS = 20_000
"""Bytes of a result that are left for its text and data, where it has pictures."""

_FORMS: tuple[tuple[int | None, float], ...] = ((None, 1), (95, 1), (85, 1), (75, 1))
"""Forms of a picture, the best one first: the quality of JPEG, or None for PNG, and the scale.

Below the last one, pictures are shrunk.
"""


@dataclass(frozen=True, slots=True)
class FittedPictures:
    """Pictures in a form that fits.

    Attributes:
        pictures: The pictures, smaller where they would not fit.
        blocks: Their files.
        note: What was done to make them fit, for the text of the result; empty if nothing.
    """

    pictures: tuple[Image.Image, ...]
    blocks: tuple[ImageContent, ...]
    note: str


def fit_pictures(pictures: Sequence[Image.Image], room: int = MAX_RESULT - WORDS) -> FittedPictures:
    """Encode pictures so that they fit together: as PNG, else as JPEG, at last smaller.

    Args:
        pictures: The pictures.
        room: Bytes of the base64 of all files together.
    """
    forms = chain(_FORMS, ((75, 0.9**step) for step in count(1)))
    return next(filter(None, (_fitted(pictures, room, *form) for form in forms)))


def cut_texts(value: Any, length: int) -> Any:
    """Cut every text in a JSON value that is longer than a number of characters.

    Of the arguments of a call, which have any shape, the JSON is cut. Half of a surrogate pair,
    which a model may spell in JSON and no message can hold, becomes a question mark.
    """
    match value:
        case str():
            value = value.encode("utf-8", "replace").decode()
            return value if len(value) <= length else f"{value[:length]}..."
        case list():
            return [cut_texts(item, length) for item in value]
        case {"arguments": arguments} if len(spelled := json.dumps(arguments)) > length:
            rest = {name: item for name, item in value.items() if name != "arguments"}
            return {**cut_texts(rest, length), "arguments": {"cut": f"{spelled[:length]}..."}}
        case dict():
            return {
                cut_texts(name, length): cut_texts(item, length) for name, item in value.items()
            }
    return value


def _fitted(
    pictures: Sequence[Image.Image], room: int, quality: int | None, scale: float
) -> FittedPictures | None:
    """Encode pictures in one form; None if they take more room."""
    shown = tuple(pictures) if scale == 1 else tuple(_shrunk(each, scale) for each in pictures)
    if (files := _encode(shown, room, quality)) is None:
        return None
    kind, note = "image/png", ""
    if quality is not None:
        kind, note = "image/jpeg", f"sent as JPEG of quality {quality} to fit {MAX_RESULT:,} bytes"
        note = note if scale == 1 else f"shrunk and {note}"
    blocks = (ImageContent(type="image", data=file, mimeType=kind) for file in files)
    return FittedPictures(shown, tuple(blocks), note)


def _shrunk(picture: Image.Image, scale: float) -> Image.Image:
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _encode(pictures: Sequence[Image.Image], room: int, quality: int | None) -> list[str] | None:
    """Encode pictures as base64 of PNG, or of JPEG of a quality; None if they take more room."""
    files: list[str] = []
    for picture in pictures:
        file = io.BytesIO()
        if quality is None:
            picture.save(file, "PNG")
        else:
            plain = picture.convert("RGB")
            plain.info = {}  # comments and profiles may be of any size
            plain.save(file, "JPEG", quality=quality)
        files.append(base64.b64encode(file.getbuffer()).decode())
        room -= len(files[-1])
        if room < 0:
            return None
    return files
