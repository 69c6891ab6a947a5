"""Frames of a clip that may be anything, decoded in a process of its own.

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
from visreplay.tools.video import clip_file, probe, sample_frames

MEMORY_LIMIT = 8 * 2**30
"""Bytes of addresses that the process may have; a frame of 8K takes a hundredth of them."""
_WRITTEN = 2**30
"""Bytes of a file that it may write."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_KNOWN = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
"""What it is told of the environment, in which there may be keys."""
_AT_ONCE = BoundedSemaphore(os.cpu_count() or 1)


def clip_frames(
    path: Path,
    *,
    rate: float,
    max_frames: int,
    max_seconds: float,
    max_pixels: int,
    max_side: int,
    timeout: float,
) -> list[Frame]:
    """Frames evenly over a clip.

    Args:
        path: The clip's file.
        rate: Frames a second, at least one in all.
        max_frames: No more than these, however long it is.
        max_seconds: Longer clips are refused.
        max_pixels: Clips with larger frames are refused.
        max_side: Larger frames are shrunk, in pixels.
        timeout: For all of it, in seconds; only as many clips are decoded at once as there are
            cores, and the others wait.

    Raises:
        ToolError: If the clip cannot be read, or is refused.
    """
    clip_file(path)  # what is none at first sight starts no process
    with TemporaryDirectory(prefix="visreplay-") as folder:
        asked = [str(path), folder, rate, max_frames, max_seconds, max_pixels, max_side]
        known = {name: os.environ[name] for name in _KNOWN if name in os.environ}
        paths = os.pathsep.join(filter(None, sys.path))
        until = time.monotonic() + timeout
        try:
            if not _AT_ONCE.acquire(timeout=timeout):
                raise subprocess.TimeoutExpired("waiting", timeout)
            try:
                ended = subprocess.run(
                    [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
                    input=json.dumps(asked).encode(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # FFmpeg says there what it thinks of the file
                    env={**known, "PYTHONPATH": paths, **_ONE_THREAD},
                    timeout=max(0.0, until - time.monotonic()),
                    check=False,
                )
            finally:
                _AT_ONCE.release()
        except subprocess.TimeoutExpired as error:
            raise ToolError(
                f"to decode the clip takes longer than the {timeout:g} s that are allowed"
            ) from error
        if ended.returncode:
            raise ToolError(f"{path.name} is not a clip that can be read")
        told = json.loads((Path(folder) / "told.json").read_text("utf-8"))
        if "error" in told:
            raise ToolError(told["error"])
        pixels = np.load(Path(folder) / "frames.npy")
        return [
            Frame(Image.fromarray(picture), time, index)
            for picture, (time, index) in zip(pixels, told["frames"], strict=True)
        ]


def main() -> None:
    """Decode what the standard input asks for; in the process that may end."""
    import resource  # which Windows has not

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_WRITTEN, _WRITTEN))
    path, folder, rate, max_frames, max_seconds, max_pixels, max_side = json.load(sys.stdin)
    told: dict[str, Any] = {}
    try:
        info = probe(path, max_pixels=max_pixels)
        if info.duration > max_seconds:
            raise ToolError(
                f"the clip has {info.duration:.1f} s; at most {max_seconds:g} s are allowed"
            )
        wanted = max(1, round(rate * info.duration))
        frames = sample_frames(
            path,
            count=min(wanted, info.frame_count, max_frames),
            max_frames=max_frames,
            max_side=max_side,
            max_pixels=max_pixels,
        )
        told["frames"] = [(frame.time, frame.index) for frame in frames]
        pixels = np.stack([np.asarray(frame.image) for frame in frames])
        np.save(Path(folder) / "frames.npy", pixels)
    except ToolError as error:
        told["error"] = str(error)
    (Path(folder) / "told.json").write_text(json.dumps(told), "utf-8")
