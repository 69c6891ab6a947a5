import numpy as np

from visreplay.tasks.synthetic.video_search import (
    FPS,
    HARD,
    OVERVIEW_FRAMES,
    SECONDS,
    LightVideo,
    VideoSearch,
)
from visreplay.tools import probe, sample_frames


def random_clips(count: int) -> list[LightVideo]:
    return [LightVideo.random(np.random.default_rng(seed)) for seed in range(count)]


def test_the_clip_is_a_real_file() -> None:
    task = VideoSearch()
    video = task.sample(5).video
    assert video is not None
    info = probe(video)
    assert (info.frame_count, info.fps, info.duration) == (FPS * SECONDS, FPS, SECONDS)


def test_uniform_frames_never_show_the_character() -> None:
    times = [(i + 0.5) * SECONDS / OVERVIEW_FRAMES for i in range(OVERVIEW_FRAMES)]
    for clip in random_clips(20):
        other = LightVideo(
            clip.moment, "B" if clip.character == "A" else "A", clip.colour, clip.shape,
            clip.centre, clip.plain,
        )  # fmt: skip
        assert all(np.array_equal(clip.frame(time), other.frame(time)) for time in times)
        assert not np.array_equal(clip.frame(clip.moment), other.frame(clip.moment))


def test_the_marker_is_lit_in_the_two_frames_around_the_moment() -> None:
    times = [(i + 0.5) * SECONDS / OVERVIEW_FRAMES for i in range(OVERVIEW_FRAMES)]
    for clip in random_clips(20):
        x, y = clip.centre
        lit = [t for t in times if clip.frame(t)[y, x].max() > 60]
        assert len(lit) == 2
        assert sum(lit) / 2 == clip.moment


def test_frames_around_the_moment_show_the_character() -> None:
    task = VideoSearch()
    sample = task.sample(5)
    clip = sample.facts["video"]
    assert isinstance(clip, LightVideo)
    assert sample.video is not None
    for frame in sample_frames(sample.video, around=clip.moment, count=2, window=0.25):
        difference = np.asarray(frame.image).astype(int) - clip.frame(frame.time)
        assert np.abs(difference).mean() < 6


def test_hard_clips_have_markers_of_other_colours_lit_at_other_moments() -> None:
    for seed in range(20):
        sample = VideoSearch(HARD).sample(seed)
        clip = sample.facts["video"]
        assert isinstance(clip, LightVideo)
        lights = [clip, *clip.decoys]
        assert len({light.colour for light in lights}) == 3
        assert len({light.moment for light in lights}) == 3
        assert len({light.centre for light in lights}) == 3
        assert sample.question == f"Which character appears on the {clip.colour} marker?"
        for light in lights:
            x, y = light.centre
            assert clip.frame(light.moment)[y - 12, x].max() > 60
