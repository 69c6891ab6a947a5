"""Videos whose frames carry their own number, in any container and codec that PyAV writes.

The left half's grey is 16 + 20 x tens, the right half's 16 + 20 x ones, as in `tests/data/clips`.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT, FPS = 160, 96, 30


def numbered_picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Draw the frame of a number below 120, [height, width, 3]."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, : width // 2] = 16 + 20 * (number // 10)
    picture[:, width // 2 :] = 16 + 20 * (number % 10)
    return picture


def number_of(picture: Image.Image) -> int:
    """Read the number of a frame."""
    grey = np.asarray(picture.convert("L"))
    row = grey[grey.shape[0] // 2]
    tens, ones = row[row.size // 4], row[3 * row.size // 4]
    return 10 * round((int(tens) - 16) / 20) + round((int(ones) - 16) / 20)


def write_numbered(
    path: Path,
    codec: str,
    frames: int = 60,
    *,
    container: str | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    cut: int = 0,
    times: Callable[[int], int] = lambda number: number,
) -> Path:
    """Write a video.

    Args:
        path: Where to write it.
        codec: The name of the encoder.
        frames: Number of frames.
        container: The name of the container; by default by the path's suffix.
        options: Options of the encoder.
        muxer: Options of the container.
        cut: Frames at the start that an edit list cuts off, as cutting without encoding does.
        times: The time of each frame, in thirtieths of a second.
    """
    with av.open(str(path), "w", format=container, container_options=muxer) as output:
        stream = output.add_stream(codec, rate=FPS, options=options or {})
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "gray", "prores": "yuv422p10le"}.get(
            codec, "yuv420p"
        )
        if codec in ("mpeg4", "mpeg1video", "mpeg2video", "msmpeg4v3", "wmv2", "flv", "mjpeg"):
            stream.bit_rate = 4_000_000
        stream.time_base = Fraction(1, FPS)
        stream.codec_context.time_base = Fraction(1, FPS)
        packets = []
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24")
            frame.pts, frame.time_base = times(number), Fraction(1, FPS)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            shift = round(cut / FPS / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            output.mux(packet)
    return path


def plain_decode(path: Path) -> list[tuple[float | None, int]]:
    """Decode all of a video from its start: the time and the number of each frame."""
    decoded = []
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        stream.thread_type = "NONE"
        for packet in source.demux(stream):
            try:
                for frame in packet.decode():
                    decoded.append((frame.time, number_of(frame.to_image())))
            except av.InvalidDataError:
                continue
    return decoded
