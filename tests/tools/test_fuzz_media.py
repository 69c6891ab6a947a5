"""Mutated pictures and videos: decoded within the limits, or refused, and nothing else."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from fuzzing import fuzzing
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visreplay.tools import ToolError, load_image
from visreplay.tools.files import open_bytes
from visreplay.tools.video import VideoReader
from visreplay.tools.video_choice import FrameChoice

CLIPS = Path(__file__).parent.parent / "data" / "clips"
KINDS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "PPM", "ICO", "TGA", "JPEG2000")
MAX_PIXELS = 10**6


@cache
def pictures() -> list[bytes]:
    """Encode a picture in every format and some modes."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    picture = Image.fromarray(noise)
    files = []
    for kind in KINDS:
        for mode in ("RGB", "L", "P"):
            file = io.BytesIO()
            try:
                picture.convert(mode).save(file, kind)
            except OSError:
                continue  # the format has no such mode
            files.append(file.getvalue())
    for options in ({"progressive": True}, {"optimize": True}):
        file = io.BytesIO()
        picture.save(file, "JPEG", **options)
        files.append(file.getvalue())
    return files


@cache
def videos() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CLIPS.iterdir()) if path.suffix != ".md"]


@st.composite
def mutated(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """Change, remove, repeat or cut off bytes of a file, mostly near its start."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 6))):
        if not data:
            break
        place = draw(st.integers(0, min(len(data) - 1, draw(st.sampled_from([64, 600, 10**6])))))
        match draw(st.sampled_from(["byte", "number", "remove", "repeat", "cut"])):
            case "byte":
                data[place] = draw(st.integers(0, 255))
            case "number":
                value = draw(st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
                order = draw(st.sampled_from(["big", "little"]))
                data[place : place + 4] = value.to_bytes(4, order)  # type: ignore[arg-type]
            case "remove":
                del data[place : place + draw(st.integers(1, 40))]
            case "repeat":
                data[place:place] = data[place : place + 40] * draw(st.integers(1, 50))
            case "cut":
                del data[place:]
    return bytes(data)


@fuzzing(200, 20_000)
@given(st.deferred(lambda: mutated(pictures())))
def test_pictures(content: bytes) -> None:
    try:
        image = load_image(content, max_pixels=MAX_PIXELS)
    except ToolError:
        return
    assert image.mode == "RGB" and 0 < image.width * image.height <= MAX_PIXELS


@fuzzing(100, 10_000)
@given(
    st.deferred(lambda: mutated(videos())),
    st.sampled_from([{"count": 3}, {"times": [0.0, 0.5]}, {"scenes": 2}, {"rate": 2.0}]),
)
def test_videos(content: bytes, choice: dict[str, object]) -> None:
    with open_bytes(content) as file:
        reader = VideoReader(file, MAX_PIXELS, max_seconds=100, seconds=20)
        try:
            frames = reader.frames(FrameChoice(max_side=64, **choice))  # type: ignore[arg-type]
        except ToolError:
            return
    for frame in frames:
        assert max(frame.image.size) <= 64 and 0 <= frame.time <= 100 and frame.index >= 0
