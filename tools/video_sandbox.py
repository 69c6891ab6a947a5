"""Decode frames of an untrusted video in a process of its own.

decord ends its process at some damaged files (an AVI that claims two thousand million frames is
enough), and nothing else ends a decoder that takes too long.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import BoundedSemaphore
from typing import Any

import numpy as np
from PIL import Image

from visreplay.tools.types import Frame, ToolError
from visreplay.tools.video import probe, sample_frames, video_file

MEMORY_LIMIT = 8 * 2**30
"""Address space of the process in bytes; a frame of 8K takes a hundredth of it."""
_FILE_LIMIT = 2**30
"""Largest size in bytes of a file that the process may write."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
"""The only environment variables that the process gets: others may hold keys."""
_AT_ONCE = BoundedSemaphore(os.cpu_count() or 1)


def frames_in_sandbox(
    path: Path,
    *,
    rate: float,
    max_frames: int,
    max_seconds: float,
    max_pixels: int,
    max_side: int,
    timeout: float,
) -> list[Frame]:
    """Sample frames evenly over a video.

    Args:
        path: The video's file.
        rate: Frames a second; there is at least one frame.
        max_frames: Largest number of frames, however long the video is.
        max_seconds: Longer videos are refused.
        max_pixels: Videos with more pixels a frame are refused.
        max_side: Longest side of a frame in pixels; larger frames are shrunk.
        timeout: Time for everything, in seconds. As many videos are decoded at the same time as
            there are cores; the others wait.

    Raises:
        ToolError: The video cannot be read, or is refused.
    """
    video_file(path)  # a file that is no video at first sight starts no process
    with TemporaryDirectory(prefix="visreplay-") as folder:
        request = [str(path), folder, rate, max_frames, max_seconds, max_pixels, max_side]
        environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        paths = os.pathsep.join(filter(None, sys.path))
        until = time.monotonic() + timeout
        try:
            if not _AT_ONCE.acquire(timeout=timeout):
                raise subprocess.TimeoutExpired("waiting", timeout)
            try:
                ended = subprocess.run(
                    [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
                    input=json.dumps(request).encode(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # FFmpeg writes there about the file
                    env={**environment, "PYTHONPATH": paths, **_ONE_THREAD},
                    timeout=max(0.0, until - time.monotonic()),
                    check=False,
                )
            finally:
                _AT_ONCE.release()
        except subprocess.TimeoutExpired as error:
            raise ToolError(
                f"decoding the video takes longer than the {timeout:g} s that are allowed"
            ) from error
        if ended.returncode:
            raise ToolError(f"{path.name} is not a video that can be read")
        reply = json.loads((Path(folder) / "reply.json").read_text("utf-8"))
        if "error" in reply:
            raise ToolError(reply["error"])
        pixels = np.load(Path(folder) / "frames.npy")
        return [
            Frame(Image.fromarray(picture), time, index)
            for picture, (time, index) in zip(pixels, reply["frames"], strict=True)
        ]


def main() -> None:
    """Decode the frames that standard input requests; this runs in the process that may end."""
    import resource  # Windows has no such module

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_LIMIT, _FILE_LIMIT))
    path, folder, rate, max_frames, max_seconds, max_pixels, max_side = json.load(sys.stdin)
    reply: dict[str, Any] = {}
    try:
        info = probe(path, max_pixels=max_pixels)
        if info.duration > max_seconds:
            raise ToolError(
                f"the video has {info.duration:.1f} s; at most {max_seconds:g} s are allowed"
            )
        wanted = max(1, round(rate * info.duration))
        frames = sample_frames(
            path,
            count=min(wanted, info.frame_count, max_frames),
            max_frames=max_frames,
            max_side=max_side,
            max_pixels=max_pixels,
        )
        reply["frames"] = [(frame.time, frame.index) for frame in frames]
        pixels = np.stack([np.asarray(frame.image) for frame in frames])
        np.save(Path(folder) / "frames.npy", pixels)
    except ToolError as error:
        reply["error"] = str(error)
    (Path(folder) / "reply.json").write_text(json.dumps(reply), "utf-8")
