"""Frame i shows frame i at its own time, or the video is refused, whatever holds it.

Each clip is compared with a plain decode from its start (`numbered.plain_decode`).
"""

import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import av
import numbered
import pytest
from numbered import FPS, number_of, plain_decode, write_numbered

from visreplay.tools import Frame, ToolError, probe, sample_frames

CLIPS = Path(__file__).parent.parent / "data" / "clips"

TABLE = {
    "mp4-h264": ("a.mp4", "libx264", {"g": "12", "bf": "3"}),
    "mp4-h264-no-b": ("a.mp4", "libx264", {"g": "12", "bf": "0"}),
    "mp4-h264-open": ("a.mp4", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    "mp4-h264-refresh": ("a.mp4", "libx264", {"g": "20", "x264-params": "intra-refresh=1"}),
    "mp4-hevc": ("a.mp4", "libx265", {"x265-params": "log-level=none:keyint=12:open-gop=1"}),
    "mp4-av1": ("a.mp4", "libsvtav1", {"g": "12", "preset": "12"}),
    "mp4-mpeg4": ("a.mp4", "mpeg4", {"g": "12", "bf": "2"}),
    "mov-prores": ("a.mov", "prores", {}),
    "mkv-h264": ("a.mkv", "libx264", {"g": "12", "bf": "3"}),
    "mkv-hevc": ("a.mkv", "libx265", {"x265-params": "log-level=none:keyint=12"}),
    "mkv-ffv1": ("a.mkv", "ffv1", {}),
    "webm-vp8": ("a.webm", "libvpx", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "webm-vp9": ("a.webm", "libvpx-vp9", {"g": "12", "auto-alt-ref": "1", "deadline": "realtime"}),
    "avi-mpeg4": ("a.avi", "mpeg4", {"g": "12", "bf": "2"}),
    "avi-msmpeg4": ("a.avi", "msmpeg4v3", {"g": "12"}),
    "avi-mjpeg": ("a.avi", "mjpeg", {}),
    "avi-h264": ("a.avi", "libx264", {"g": "12", "bf": "3"}),
    "flv-h264": ("a.flv", "libx264", {"g": "12", "bf": "3"}),
    "flv-flv1": ("a.flv", "flv", {"g": "12"}),
    "ts-h264": ("a.ts", "libx264", {"g": "12", "bf": "3"}),
    "ts-h264-open": ("a.ts", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    "ts-mpeg2": ("a.ts", "mpeg2video", {"g": "12", "bf": "2"}),
    "mpg-mpeg2": ("a.mpg", "mpeg2video", {"g": "12", "bf": "2"}),
    "wmv": ("a.wmv", "wmv2", {"g": "12"}),
    "gif": ("a.gif", "gif", {}),
}
"""Suffix, encoder and options."""


def agrees(path: Path, truth: list[tuple[float | None, int]], seed: int = 0) -> None:
    """Check every way to choose frames of a whole video against a plain decode."""
    numbers = [number for _, number in truth]
    info = probe(path)
    assert info.frame_count == len(numbers)
    shown = [*sample_frames(path, count=16), *sample_frames(path, count=9, ends=True)]
    chosen = random.Random(seed).sample(range(len(numbers)), 12)
    starts = starts_of(truth, info.duration)
    for wanted in (sorted(chosen), chosen):  # in any order
        moments = [starts[index] + 0.5 / info.fps / 100 for index in wanted]
        frames = sample_frames(path, times=moments)
        assert [frame.index for frame in frames] == wanted
        shown += frames
    middle = starts[len(starts) // 2]
    shown += sample_frames(path, around=middle, window=0.4, count=5)
    for frame in shown:
        assert number_of(frame.image) == numbers[frame.index]
        assert frame.time == pytest.approx(starts[frame.index], abs=2e-3)
    with pytest.raises(ToolError, match="outside the clip"):
        sample_frames(path, times=[info.duration + 0.1])


def starts_of(truth: list[tuple[float | None, int]], duration: float) -> list[float]:
    times = [time for time, _ in truth if time is not None]
    if len(times) < len(truth) or any(a >= b for a, b in pairwise(times)):
        return [index * duration / len(truth) for index in range(len(truth))]
    return [time - times[0] for time in times]


@pytest.mark.parametrize("row", TABLE)
def test_containers_and_codecs(row: str, tmp_path: Path) -> None:
    name, codec, options = TABLE[row]
    path = write_numbered(tmp_path / name, codec, options=options)
    truth = plain_decode(path)
    assert [number for _, number in truth] == list(range(60))
    agrees(path, truth)
    assert probe(path).duration == pytest.approx(2, abs=0.02 if name != "a.gif" else 0.5)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "250", "bf": "0"}),
        ("libx264", {"g": "250", "bf": "3"}),
        ("libx265", {"x265-params": "log-level=none:keyint=250"}),
        ("mpeg4", {"g": "250", "bf": "2"}),
    ],
)
def test_what_an_edit_list_cuts_off_is_not_shown(
    name: str, codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    path = write_numbered(tmp_path / name, codec, options=options, cut=25)
    truth = plain_decode(path)
    assert [number for _, number in truth] == list(range(25, 60))
    agrees(path, truth)
    assert probe(path).duration == pytest.approx(35 / FPS, abs=1e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_frames_of_a_variable_rate_have_their_own_times(name: str, tmp_path: Path) -> None:
    path = write_numbered(
        tmp_path / name, "libx264", options={"g": "12", "bf": "3"}, times=lambda i: i * (i + 1) // 2
    )
    agrees(path, plain_decode(path))
    (frame,) = sample_frames(path, times=[29 * 30 / 2 / FPS + 0.5])
    assert (frame.index, number_of(frame.image)) == (29, 29)
    assert frame.time == pytest.approx(29 * 30 / 2 / FPS, abs=1e-3)


def damaged(content: bytes, random: random.Random, kind: str) -> bytes:
    data = bytearray(content)
    for _ in range(random.choice((1, 3))):
        place = random.randrange(len(data) // 3, len(data) - 40)
        if kind == "bits":
            data[place] ^= 1 << random.randrange(8)
        elif kind == "zeros":
            data[place : place + 40] = bytes(40)
        else:
            del data[random.randrange(len(data) // 2, len(data)) :]
            break
    return bytes(data)


@pytest.mark.parametrize("kind", ["bits", "zeros", "end"])
@pytest.mark.parametrize("row", ["mp4-h264", "mkv-h264", "ts-h264", "webm-vp9", "avi-mpeg4"])
def test_damage_is_refused_or_the_frames_are_those_of_a_plain_decode(
    row: str, kind: str, tmp_path: Path
) -> None:
    name, codec, options = TABLE[row]
    content = write_numbered(tmp_path / name, codec, options=options).read_bytes()
    for seed in range(4):
        path = tmp_path / f"{seed}-{name}"
        path.write_bytes(damaged(content, random.Random(seed), kind))
        outcomes = [outcome(path), outcome(path)]
        assert outcomes[0] == outcomes[1], "the same file must give the same frames each time"
        truth, at = pictures(path)
        for index, time, shown in outcomes[0]:
            if time is not None:
                # A frame whose time is damaged is the one of its number.
                same = shown in at.get(round(time, 2), []) or shown == truth[index]
                assert same, (seed, index, time)


def outcome(path: Path) -> list[tuple[int, float | None, bytes]]:
    """Decode frames in two ways; an error has no frame."""
    result: list[tuple[int, float | None, bytes]] = []
    for choice in ({"count": 16}, {"times": [0.1, 0.7, 1.3]}):
        try:
            frames = sample_frames(path, **choice)  # type: ignore[arg-type]
        except ToolError as error:
            result.append((-1, None, str(error).encode()))
        else:
            result += [(frame.index, frame.time, frame.image.tobytes()) for frame in frames]
    return result


def pictures(path: Path) -> tuple[list[bytes], dict[float, list[bytes]]]:
    """Decode all of a video from its start: all pictures, and those at each hundredth second."""
    every: list[bytes] = []
    found: dict[float, list[bytes]] = {}
    first = None
    try:
        source = av.open(str(path))
    except av.FFmpegError:
        return [], {}
    with source:
        stream = source.streams.video[0]
        stream.thread_type = "NONE"
        for packet in source.demux(stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                continue
            for frame in frames:
                first = frame.time if first is None else first
                pixels = frame.to_ndarray(format="rgb24").tobytes()
                time = len(every) / FPS if frame.time is None else frame.time - (first or 0)
                for key in (time - 0.01, time, time + 0.01):
                    found.setdefault(round(key, 2), []).append(pixels)
                every.append(pixels)
    return every, found


@pytest.mark.parametrize(
    ("name", "first", "frames"),
    [
        ("id.mp4", 0, 110),
        ("id_g250_cut2.5.mp4", 75, 35),
        ("id_h264.ts", 0, 110),
        ("id_mpeg4.avi", 0, 110),
        ("id_theora.ogv", 0, 60),
    ],
)
def test_numbered_clips(name: str, first: int, frames: int) -> None:
    truth = plain_decode(CLIPS / name)
    assert [number for _, number in truth] == list(range(first, first + frames))
    agrees(CLIPS / name, truth)
    assert probe(CLIPS / name).duration == pytest.approx(frames / FPS, abs=1e-3)


def test_a_recording_of_a_browser_has_no_length_in_its_header() -> None:
    info = probe(CLIPS / "piped.webm")
    assert (info.frame_count, info.duration) == (60, 2.0)
    agrees(CLIPS / "piped.webm", plain_decode(CLIPS / "piped.webm"))


def shown(frames: tuple[Frame, ...]) -> list[int]:
    return [number_of(frame.image) for frame in frames]


DECORD = """
import sys
sys.modules["nvidia"] = None  # decord would load its libraries for the whole process
from decord import VideoReader
from numbered import number_of
from PIL import Image
reader = VideoReader(sys.argv[1], num_threads=1)
wanted = list(map(int, sys.argv[2:]))
for start, _ in reader.get_frame_timestamp(wanted):
    print(round(start * 30), end=" ")
for picture in reader.get_batch(wanted).asnumpy():
    print(number_of(Image.fromarray(picture)), end=" ")
"""


def test_decord_shows_other_frames(tmp_path: Path) -> None:
    """Why PyAV decodes here: no error tells that decord's frames are not those of their times."""
    name, codec, options = TABLE["mp4-mpeg4"]
    path = write_numbered(tmp_path / name, codec, options=options)
    wanted = [8, 13, 18, 37]
    ended = subprocess.run(
        [sys.executable, "-c", DECORD, path, *map(str, wanted)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(numbered.__file__).parent)},
        text=True,
    )
    numbers = list(map(int, ended.stdout.split()))
    assert numbers[:4] == wanted
    assert numbers[4:] != wanted, "decord is right by now: is there still a reason against it?"
    assert shown(sample_frames(path, times=[(index + 0.5) / FPS for index in wanted])) == wanted


def test_only_damaged_frames_are_missing_and_each_time_the_same() -> None:
    path = CLIPS / "bad_last2.mp4"
    for _ in range(5):
        assert shown(sample_frames(path, times=[3.3])) == [99]
        with pytest.raises(ToolError, match=r"frames \[108\] cannot be decoded; others can"):
            sample_frames(path, times=[0.5, 3.61])
        # Without moments of the caller's, others are chosen.
        assert shown(sample_frames(path, count=4, ends=True)) == [0, 36, 71, 107]


def test_scenes_of_a_damaged_video() -> None:
    assert [frame.index for frame in sample_frames(CLIPS / "bad_last2.mp4", scenes=1)] == [0]


@pytest.mark.parametrize("name", ["a.mp4", "a.flv"])
def test_a_mark_of_a_keyframe_is_not_believed(name: str, tmp_path: Path) -> None:
    codec = {"a.mp4": "mpeg4", "a.flv": "flv"}[name]
    source = write_numbered(tmp_path / f"source-{name}", codec, options={"g": "60"})
    path = tmp_path / name
    with av.open(str(source)) as reading, av.open(str(path), "w") as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        for packet in reading.demux(video=0):
            if packet.size:
                packet.stream, packet.is_keyframe = stream, True
                writing.mux(packet)
    agrees(path, plain_decode(path))


@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
def test_timestamps_that_begin_anew_go_on(name: str, tmp_path: Path) -> None:
    first, second = (
        write_numbered(tmp_path / f"{frames}-{name}", "mpeg2video", frames, options={"g": "12"})
        for frames in (40, 60)
    )
    path = tmp_path / name
    path.write_bytes(first.read_bytes() + second.read_bytes())
    numbers = [number for _, number in plain_decode(path)]
    assert probe(path).frame_count == len(numbers) >= 98
    assert probe(path).duration == pytest.approx(len(numbers) / FPS, abs=0.2)
    for frame in sample_frames(path, count=16):
        assert number_of(frame.image) == numbers[frame.index]
        assert frame.time == pytest.approx(frame.index / FPS, abs=0.2)


def test_pixels_that_are_not_square_are_shown_square() -> None:
    assert probe(CLIPS / "anamorphic.mp4").size == (320, 180)
    (frame,) = sample_frames(CLIPS / "anamorphic.mp4", count=1)
    assert frame.image.size == (320, 180)


def test_a_video_is_turned_as_its_camera_was_held() -> None:
    assert probe(CLIPS / "rot90.mp4").size == (180, 320)
    (frame,) = sample_frames(CLIPS / "rot90.mp4", times=[1.0])
    # As stored, the edge is red at the top and green at the right.
    red, green = frame.image.getpixel((5, 150)), frame.image.getpixel((90, 315))
    assert red[0] > 150 > 100 > red[1] and green[1] > 150 > 100 > green[0]  # type: ignore[index]


@pytest.mark.parametrize("choice", [{"count": 16}, {"count": 16, "ends": True}, {"around": 0.01}])
def test_a_clip_of_one_frame_gives_it_once(choice: dict[str, float]) -> None:
    assert len(sample_frames(CLIPS / "one.mp4", **choice)) == 1  # type: ignore[arg-type]


def test_a_sample_table_of_two_thousand_million_frames_is_no_more_than_its_frames() -> None:
    frames = sample_frames(CLIPS / "stts_count_2g.mp4", count=4)
    assert [frame.index for frame in frames] == [2, 7, 12, 17]
