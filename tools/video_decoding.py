"""Decode frames of videos, each at its own time; only the children of `media_pool` do this.

A container says much about its frames that need not be so. Here a frame's number and time come from
the timestamps of all its packets, of which the parts that an edit list cuts off do not count.
Where packets are not one for one frames, or have no timestamps, all frames are decoded and counted.
Frames are decoded from the keyframe before them, and taken by the timestamp that they carry; if a
timestamp does not come, the video is decoded from its start and counted.

The library is PyAV. decord finds a frame by counting from a keyframe on; its frames can be others
than its timestamps say, and only decoding them once more would tell (the tests show such a video).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Self

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from visreplay.tools.types import Frame, ToolError
from visreplay.tools.video_choice import FrameChoice
from visreplay.tools.video_picture import as_shown, shown_size
from visreplay.tools.video_scenes import scene_starts
from visreplay.tools.video_timeline import (
    DECODING_TIMES,
    Timeline,
    begun_with,
    counted_timeline,
    packet_timeline,
)

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,ogg,gif,mpeg,mpegts,mpegvideo,asf"
)
"""Containers. FFmpeg would also open playlists: texts that name other files and addresses."""
_WITHOUT_INDEX = frozenset(("mpegts", "mpeg"))
"""Containers in which a search by time misses keyframes; their positions in the file lead there."""
_STEPS_BACK = (0, 1, 3)
"""Keyframes to go back where decoding from the nearest does not lead to a frame."""
_SCENE_PROBES = 512

av.logging.set_level(av.logging.PANIC)


class _LostError(Exception):
    """A frame does not come where the timeline has it."""


class Video:
    """A video that is open.

    Args:
        path: The file.
        name: Its name in errors.
        max_pixels: Largest number of pixels of a frame.
        max_seconds: Longest video in seconds; None sets no bound.

    Raises:
        ToolError: The file is not a readable video with at least one frame, or too large or long.
    """

    def __init__(
        self, path: str, name: str, max_pixels: int, max_seconds: float | None = None
    ) -> None:
        self._path, self._name, self._max_pixels = path, name, max_pixels
        try:
            self._container, self._stream = self._open()
            self._check_size()
            timeline = packet_timeline(self._container, self._stream)
            first = next(self._from_start(), None)
            if first is None:
                raise ToolError(f"the video {name} has no frames")
            self._size = self._picture(first).size
            if timeline is not None:
                timeline = None if first.pts is None else begun_with(timeline, first.pts)
            self.timeline = timeline or self._count()
        except (av.FFmpegError, ArithmeticError) as error:
            raise ToolError(f"{name} is not a video that can be read") from error
        duration = self.timeline.duration
        if max_seconds is not None and duration > max_seconds:
            raise ToolError(
                f"the video has {duration:.1f} s; at most {max_seconds:g} s are allowed"
            )

    def __enter__(self) -> Self:
        """Return the video."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self._container.close()

    def properties(self) -> dict[str, Any]:
        """Describe the video: see `VideoInfo`."""
        return {
            "duration": self.timeline.duration,
            "fps": self.timeline.fps,
            "frame_count": len(self.timeline.starts),
            "size": self._size,
        }

    def sample(self, choice: FrameChoice) -> list[Frame]:
        """Decode chosen frames, in the order of the choice.

        Raises:
            ToolError: The choice makes no sense for this video, or a frame cannot be decoded.
        """
        indices: list[int] = []
        try:
            indices = self._chosen(choice)
            pictures = self._pictures(indices, choice.max_side)
        except _LostError:
            before, self.timeline = self.timeline, self._count()
            if choice.by_moment:
                indices = self._same_frames(indices, before)
            else:
                indices = self._chosen(choice)
            pictures = self._counted_pictures(indices, choice.max_side)
        starts = self.timeline.starts
        return [Frame(pictures[index], float(starts[index]), index) for index in indices]

    # The timeline.

    def _open(self) -> tuple[Any, VideoStream]:
        container = _open_container(self._path)
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            container.close()
            raise ToolError(f"{self._name} has no video stream")
        if stream.codec_context is None:
            container.close()
            raise ToolError(f"{self._name} has a video of a codec that is not known")
        stream.thread_type = "NONE"
        return container, stream

    def _reopen(self) -> None:
        self._container.close()
        self._container, self._stream = self._open()

    def _check_size(self) -> None:
        """Refuse large frames before one is decoded."""
        context = self._stream.codec_context
        width, height = shown_size(context.width, context.height, self._aspect())
        if width * height > self._max_pixels:
            raise ToolError(
                f"the frames of {self._name} have {width} x {height} = {width * height} pixels; at "
                f"most {self._max_pixels} are allowed"
            )

    def _count(self) -> Timeline:
        """Decode the whole video, and make the timeline of what comes."""
        frames = self._from_start()
        decoding = self._container.format.name in DECODING_TIMES
        # Each frame comes out when a later packet goes in; those times are as far apart.
        stamps = [frame.dts if decoding else frame.pts for frame in frames]
        if not stamps:
            raise ToolError(f"the video {self._name} has no frames")
        return counted_timeline(stamps, self._stream)

    # The choice.

    def _chosen(self, choice: FrameChoice) -> list[int]:
        if choice.scenes is not None:
            return self._scene_starts(choice.scenes)
        return choice.indices(self.timeline.starts, self.timeline.duration)

    def _same_frames(self, indices: Sequence[int], before: Timeline) -> list[int]:
        """Find frames of another timeline in the one of now.

        Raises:
            ToolError: Some of them are not there.
        """
        places = {stamp: place for place, stamp in enumerate(self.timeline.stamps)}
        found = {index: places.get(before.stamps[index]) for index in indices}
        if missing := sorted(index for index, place in found.items() if place is None):
            raise ToolError(
                f"{self._name} is damaged: frames {missing} cannot be decoded; others can"
            )
        return [place for index in indices if (place := found[index]) is not None]

    def _scene_starts(self, scenes: int) -> list[int]:
        count = len(self.timeline.starts)
        probes = list(range(0, count, max(1, math.ceil(count / _SCENE_PROBES))))
        pictures = self._pictures(probes, 64)
        return [probes[i] for i in scene_starts([pictures[probe] for probe in probes], scenes)]

    # The pictures.

    def _pictures(self, indices: Sequence[int], max_side: int | None) -> dict[int, Image.Image]:
        """Decode frames by number, each shrunk as soon as it is there.

        Raises:
            _LostError: A frame does not come with its timestamp.
        """
        wanted = sorted(set(indices))
        if not len(self.timeline.keyframes):
            return self._counted_pictures(wanted, max_side)
        return self._by_seeking(wanted, max_side)

    def _counted_pictures(
        self, indices: Sequence[int], max_side: int | None
    ) -> dict[int, Image.Image]:
        """Decode frames by their number from the start."""
        wanted = set(indices)
        pictures = {}
        for index, frame in enumerate(self._from_start()):
            if index in wanted:
                pictures[index] = self._picture(frame, max_side)
            if len(pictures) == len(wanted):
                break
        return pictures

    def _by_seeking(self, wanted: Sequence[int], max_side: int | None) -> dict[int, Image.Image]:
        """Decode frames from the keyframes before them, and take them by their timestamps."""
        stamps, keyframes = self.timeline.stamps, self.timeline.keyframes
        places = {stamp: place for place, stamp in enumerate(stamps)}
        pictures: dict[int, Image.Image] = {}
        coming: Iterator[VideoFrame] = iter(())
        place = -1  # of the frame that came last
        for index in wanted:
            near = int(np.searchsorted(keyframes, stamps[index], "right")) - 1
            frame = None
            if place >= places.get(keyframes[max(near, 0)], 0):
                place, frame = _next_frame(coming, places, index)
            for back in _STEPS_BACK:
                if place == index or near < back:
                    break
                coming = self._decoded_from(near - back)
                place, frame = _next_frame(coming, places, index)
            if frame is None or place != index:
                raise _LostError
            pictures[index] = self._picture(frame, max_side)
        return pictures

    def _decoded_from(self, keyframe: int) -> Iterator[VideoFrame]:
        """Decode from a keyframe, by its number."""
        by_bytes = self._container.format.name in _WITHOUT_INDEX
        stamp = int(self.timeline.keyframes[keyframe])
        aim = self.timeline.places[keyframe] if by_bytes else stamp
        try:
            self._container.seek(aim, stream=self._stream, unsupported_byte_offset=by_bytes)
        except av.FFmpegError as error:
            raise _LostError from error
        for number, frame in enumerate(self._decoded()):
            if not number and not frame.key_frame:
                raise _LostError  # the container's mark was wrong
            if not number and by_bytes and frame.pts != stamp:
                raise _LostError  # the end of the frame before, which is there too, took its time
            yield frame

    def _from_start(self) -> Iterator[VideoFrame]:
        """Decode all frames that can be decoded."""
        self._reopen()
        yield from self._decoded()

    def _decoded(self) -> Iterator[VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, IndexError):  # IndexError: a stream begins in the middle
                return
            try:
                yield from packet.decode()
            except av.FFmpegError:
                continue  # a damaged packet: the next ones may be whole

    def _aspect(self) -> Fraction:
        """Read the width of a pixel in its heights."""
        aspect = self._stream.sample_aspect_ratio
        return Fraction(aspect) if aspect else Fraction(1)

    def _picture(self, frame: VideoFrame, max_side: int | None = None) -> Image.Image:
        """Convert a frame to RGB as a player shows it: upright, with square pixels.

        Frames of another size than the first are brought to its size.
        """
        if frame.width * frame.height > self._max_pixels:
            raise ToolError(
                f"a frame of {self._name} has {frame.width} x {frame.height} pixels; at most "
                f"{self._max_pixels} are allowed"
            )
        picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
        # `frame.side_data` makes a cycle, which would keep the pixels of many frames.
        data = SideDataContainer(frame)  # type: ignore[call-arg]
        picture = as_shown(picture, self._aspect(), data.get("DISPLAYMATRIX"))
        size = getattr(self, "_size", picture.size)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        if max_side is not None:
            picture.thumbnail((max_side, max_side))
        return picture


def is_video(path: str) -> bool:
    """Tell whether a file is a container with a video."""
    try:
        with _open_container(path) as container:
            return container.streams.best("video") is not None
    except (av.FFmpegError, ValueError):
        return False


def _open_container(path: str) -> Any:
    return av.open(
        path,
        metadata_errors="ignore",
        options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
    )


def _next_frame(
    coming: Iterator[VideoFrame], places: Mapping[float, int], index: int
) -> tuple[int, VideoFrame | None]:
    """Decode up to a frame, or beyond it if it does not come.

    Returns:
        The number of the last decoded frame, and the frame.
    """
    for frame in coming:
        if frame.pts is None or frame.is_corrupt:
            break
        place = places.get(frame.pts, -1)
        if place >= index:
            return place, frame
    return -1, None
