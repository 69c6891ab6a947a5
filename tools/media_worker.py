"""The other end of `media_pool`: the child process that decodes pictures and videos.

A request is a line of JSON with the file's descriptor beside it. `op` says what is wanted:

    image   the picture as upright RGB
    kind    whether the file is a picture or a video
    probe   the properties of a video
    frames  frames of a video

The answer is JSON, with the pixels in an anonymous file beside it.
"""

import fcntl
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from visreplay.tools.disk import write_all
from visreplay.tools.image_decoding import PIXEL_BYTES, decode_image, picture_kind, rgb_strips
from visreplay.tools.media_wire import anonymous_file, receive, send
from visreplay.tools.types import ToolError

if TYPE_CHECKING:
    from visreplay.tools.video_decoding import Video

_BASE_BYTES = 2**30
"""Memory for a picture beside its pixels, in bytes, with what is loaded for it."""
_VIDEO_BYTES = 2 * 2**30
"""Memory for a video beside that: reference frames, and the index of a long one."""
_TIRED_BYTES = 2 * 2**30
"""Address space of a child that has nothing to do, beyond which another one takes its place."""
_OUTPUT_BYTES = 2**30
"""Largest number of bytes of all frames of an answer."""


def main() -> None:
    """Answer requests until the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's to handle
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection, life = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    _end_with(life)
    send(connection, {})
    while True:
        try:
            request, descriptor = receive(connection)
        except EOFError:
            return
        assert descriptor is not None, "every request comes with a file"
        values, pixels = _answer(request, descriptor)
        os.close(descriptor)
        tired = _is_tired()
        send(connection, {**values, "last": tired}, pixels)
        if pixels is not None:
            os.close(pixels)
        if tired:
            return


def _is_tired() -> bool:
    """Tell whether this process should end: it holds too much for one that has nothing to do."""
    if _address_space() <= _TIRED_BYTES:
        return False
    gc.collect()  # a decoder that is closed may wait for it with what it has reserved
    return _address_space() > _TIRED_BYTES


def _end_with(life: socket.socket) -> None:
    """End this process, whatever it does, when the other end of a socket is closed."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which ends the process
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    try:
        life.recv(1)
    except BlockingIOError:
        return
    sys.exit()  # it was closed before


def _answer(request: dict[str, Any], descriptor: int) -> tuple[dict[str, Any], int | None]:
    limits = _LIMITS[request["op"]](request)
    output = None
    try:
        _limit(limits, request["seconds"])
        output = anonymous_file()
        values = OPERATIONS[request["op"]](request, f"/dev/fd/{descriptor}", output)
        return values, output
    except ToolError as error:
        answer = str(error)
    except MemoryError:
        answer = f"{request['name']} needs more than the {limits / 2**30:.1f} GiB that are allowed"
    except Exception as error:  # libraries raise what they like about a damaged file
        answer = f"{request['name']} cannot be read: {type(error).__name__}: {error}"[:500]
    if output is not None:
        os.close(output)
    return {"error": answer}, None


def _address_space() -> int:
    """Read the size of this process's address space in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _limit(memory: int, seconds: float) -> None:
    """Limit the memory and the processor's time of this request, beside what is in use already."""
    memory += _address_space()
    # The parent looks at the clock; the processor's time is for a parent that is gone.
    until = int(time.process_time() + seconds) + 2
    for kind, wanted in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, until)):
        _, hard = resource.getrlimit(kind)
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (soft, hard))


def _image(request: dict[str, Any], path: str, output: int) -> dict[str, Any]:
    image = decode_image(path, request["name"], request["max_pixels"])
    for strip in rgb_strips(image):
        write_all(output, np.ascontiguousarray(strip).data)
    return {"size": image.size}


def _kind(request: dict[str, Any], path: str, output: int) -> dict[str, Any]:
    kind = picture_kind(path, request["name"])
    if kind is None:
        from visreplay.tools.video_decoding import is_video

        if not is_video(path):
            raise ToolError(f"{request['name']} is neither an image nor a video that can be read")
    return {"kind": kind or "video"}


def _probe(request: dict[str, Any], path: str, output: int) -> dict[str, Any]:
    with _video(request, path) as video:
        return video.properties()


def _frames(request: dict[str, Any], path: str, output: int) -> dict[str, Any]:
    from visreplay.tools.video_choice import FrameChoice

    frames = []
    left = _OUTPUT_BYTES
    with _video(request, path) as video:
        for frame in video.sample(FrameChoice(**request["choice"])):
            pixels = np.ascontiguousarray(frame.image)
            left -= pixels.nbytes
            if left < 0:
                raise ToolError(
                    f"the frames have more than {_OUTPUT_BYTES:,} bytes together: choose fewer, "
                    "or smaller ones by max_side"
                )
            write_all(output, pixels.data)
            frames.append((frame.time, frame.index, frame.image.size))
    return {"frames": frames}


def _video(request: dict[str, Any], path: str) -> "Video":
    """Open a video. The libraries for videos are loaded for the first one only."""
    from visreplay.tools.video_decoding import Video

    return Video(path, request["name"], request["max_pixels"], request.get("max_seconds"))


def _image_bytes(request: dict[str, Any]) -> int:
    return _BASE_BYTES + PIXEL_BYTES * int(request["max_pixels"])


def _video_bytes(request: dict[str, Any]) -> int:
    return _BASE_BYTES + _VIDEO_BYTES + PIXEL_BYTES * int(request["max_pixels"])


OPERATIONS: dict[str, Callable[[dict[str, Any], str, int], dict[str, Any]]] = {
    "image": _image,
    "kind": _kind,
    "probe": _probe,
    "frames": _frames,
}
_LIMITS: dict[str, Callable[[dict[str, Any]], int]] = {
    "image": _image_bytes,
    "kind": lambda _: _BASE_BYTES + _VIDEO_BYTES,
    "probe": _video_bytes,
    "frames": _video_bytes,
}
