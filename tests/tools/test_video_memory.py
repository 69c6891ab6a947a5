"""Frames are shrunk one by one as they are decoded, so that a long video takes little memory."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

SAMPLE = """
import json, re, sys
from pathlib import Path
from visreplay.tools.video_choice import FrameChoice
from visreplay.tools.video_decoding import Video

with Video(sys.argv[1], "a video", 10**8) as video:
    frames = video.sample(FrameChoice(rate=2, max_frames=80, max_side=768))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text("ascii"))
print(json.dumps([len(frames), *frames[0].image.size, int(peak[1]) * 1024]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells the peak on Linux alone")
def test_forty_seconds_of_1080p_take_less_than_350_mb(tmp_path: Path) -> None:
    """Their 80 frames have 498 MB, and 249 MB as they leave the decoder; 80 MB when shrunk."""
    clip = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 2, (1920, 1080))
    for shade in range(80):
        writer.write(np.full((1080, 1920, 3), shade, np.uint8))
    writer.release()
    command = [sys.executable, "-c", SAMPLE, str(clip)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    count, width, height, peak = json.loads(printed)
    assert (count, width, height) == (80, 768, 432)
    assert peak < 350e6
