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


def random_videos(count: int) -> list[LightVideo]:
    return [LightVideo.random(np.random.default_rng(seed)) for seed in range(count)]


def test_the_video_is_a_real_file() -> None:
    task = VideoSearch()
    video = task.sample(5).video
    assert video is not None
    info = probe(video)
    assert (info.frame_count, info.fps, info.duration) == (FPS * SECONDS, FPS, SECONDS)


def test_uniform_frames_never_show_the_character() -> None:
    times = [(i + 0.5) * SECONDS / OVERVIEW_FRAMES for i in range(OVERVIEW_FRAMES)]
    for video in random_videos(20):
        other = LightVideo(
            video.moment, "B" if video.character == "A" else "A", video.colour, video.shape,
            video.centre, video.plain,
        )  # fmt: skip
        assert all(np.array_equal(video.frame(time), other.frame(time)) for time in times)
        assert not np.array_equal(video.frame(video.moment), other.frame(video.moment))


def test_the_marker_is_lit_in_the_two_frames_around_the_moment() -> None:
    times = [(i + 0.5) * SECONDS / OVERVIEW_FRAMES for i in range(OVERVIEW_FRAMES)]
    for video in random_videos(20):
        x, y = video.centre
        lit = [t for t in times if video.frame(t)[y, x].max() > 60]
        assert len(lit) == 2
        assert sum(lit) / 2 == video.moment


def test_frames_around_the_moment_show_the_character() -> None:
    task = VideoSearch()
    sample = task.sample(5)
    video = sample.facts["video"]
    assert isinstance(video, LightVideo)
    assert sample.video is not None
    for frame in sample_frames(sample.video, around=video.moment, count=2, window=0.25):
        difference = np.asarray(frame.image).astype(int) - video.frame(frame.time)
        assert np.abs(difference).mean() < 6


def test_hard_videos_have_markers_of_other_colours_lit_at_other_moments() -> None:
    for seed in range(20):
        sample = VideoSearch(HARD).sample(seed)
        video = sample.facts["video"]
        assert isinstance(video, LightVideo)
        lights = [video, *video.decoys]
        assert len({light.colour for light in lights}) == 3
        assert len({light.moment for light in lights}) == 3
        assert len({light.centre for light in lights}) == 3
        assert sample.question == f"Which character appears on the {video.colour} marker?"
        for light in lights:
            x, y = light.centre
            assert video.frame(light.moment)[y - 12, x].max() > 60
