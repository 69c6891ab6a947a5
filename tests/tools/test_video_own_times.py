"""Frames are found where the container does not say, for each of them, when it is shown.

A packet of a program stream (.mpg, .vob) has one timestamp, for the first frame that begins in it;
AVI, ASF and raw streams say when a frame is decoded. FFmpeg makes up the rest: the times of a plain
decode may be false, so that the clips are compared with what was written.
"""

from pathlib import Path

import pytest
from numbered import FPS, number_of, write_numbered

from visreplay.tools import probe, sample_frames

B_FRAMES = {"g": "12", "bf": "2"}
TABLE = {
    "mpg-mpeg1": ("a.mpg", "mpeg1video", B_FRAMES, {}),
    "mpg-mpeg1-no-b": ("a.mpg", "mpeg1video", {"g": "12", "bf": "0"}, {}),
    "mpg-mpeg2": ("a.mpg", "mpeg2video", B_FRAMES, {}),
    "vcd": ("a.mpg", "mpeg1video", B_FRAMES, {}),
    "svcd": ("a.mpg", "mpeg2video", B_FRAMES, {}),
    "vob-mpeg2": ("a.vob", "mpeg2video", B_FRAMES, {}),
    "vob-mpeg4": ("a.vob", "mpeg4", B_FRAMES, {}),
    "vob-h264": ("a.vob", "libx264", B_FRAMES, {}),
    "vob-hevc": ("a.vob", "libx265", {"x265-params": "log-level=none:keyint=12"}, {}),
    "a frame in many packets": ("a.mpg", "mpeg2video", B_FRAMES, {"packetsize": "100"}),
    "avi-mpeg1": ("a.avi", "mpeg1video", B_FRAMES, {}),
    "avi-h264": ("a.avi", "libx264", B_FRAMES, {}),
    "asf-mpeg1": ("a.asf", "mpeg1video", B_FRAMES, {}),
    "asf-h264": ("a.asf", "libx264", B_FRAMES, {}),
    "m1v": ("a.m1v", "mpeg1video", B_FRAMES, {}),
}
"""Suffix, encoder, and the options of encoder and container."""


@pytest.mark.parametrize("row", TABLE)
def test_every_frame_is_found_at_its_time(row: str, tmp_path: Path) -> None:
    name, codec, options, muxer = TABLE[row]
    container = row if row in ("vcd", "svcd") else None
    path = write_numbered(tmp_path / name, codec, container=container, options=options, muxer=muxer)
    info = probe(path)
    assert (info.frame_count, info.duration) == (60, pytest.approx(2, abs=2e-3))
    assert info.fps == pytest.approx(FPS, abs=0.05)
    for index in range(60):  # each alone, so that its keyframe is searched for
        (frame,) = sample_frames(path, times=[(index + 0.5) / FPS])
        assert (frame.index, number_of(frame.image)) == (index, index)
        assert frame.time == pytest.approx(index / FPS, abs=2e-3)
