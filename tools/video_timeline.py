"""When each frame of a video is shown, by its packets or by its decoded frames."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from av import FFmpegError, Packet
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

_ONE_PACKET_ONE_FRAME = frozenset(
    (
        *("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "gif"),
        *("theora", "flv1", "wmv1", "wmv2", "wmv3", "vc1", "h263", "msmpeg4v3", "prores", "ffv1"),
    )
)
"""Codecs whose packets are one for one shown frames; others are counted by decoding."""
DECODING_TIMES = frozenset(("avi", "mpegvideo", "asf"))
"""Containers that say when packets are decoded, and not when frames are shown. FFmpeg's guesses at
the latter need not hold for B-frames."""
_VP8_SHOWN = 0x10
"""The bit in the first byte of a VP8 packet that says that its frame is shown (RFC 6386, 9.1)."""
_MAX_REORDERING = 64
"""Frames that a codec shows earlier or later than they are stored, at most; beyond that,
timestamps begin anew somewhere."""


@dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown.

    Attributes:
        stamps: The timestamp of each frame, rising, in units of the stream's time base.
        starts: The time at which each frame begins, in seconds from the first.
        duration: Length in seconds: the end of the last frame.
        fps: Frames a second, on average.
        keyframes: The timestamps of the keyframes, rising; none if frames are found by counting.
        places: The position of each keyframe in the file, in bytes.
    """

    stamps: NDArray[np.float64]
    starts: NDArray[np.float64]
    duration: float
    fps: float
    keyframes: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    places: tuple[int, ...] = ()

    @classmethod
    def of(cls, stamps: Sequence[float], last: int, base: Fraction) -> "Timeline":
        """Make the timeline of rising timestamps, and the duration of the last frame."""
        array = np.asarray(stamps, np.float64)
        # A ten-thousandth of a second is less than any frame, and hides what a time base rounds.
        starts = ((array - array[0]) * float(base)).round(4)
        duration = float(array[-1] - array[0] + last) * float(base)
        return cls(array, starts, round(duration, 4), round(len(array) / duration, 6))


def packet_timeline(container: InputContainer, stream: VideoStream) -> Timeline | None:
    """Read the timeline from the packets of a stream, to the file's end.

    Returns:
        The timeline; None if the packets are not to be believed: not one for one frames, without
        timestamps of their own, or with timestamps that begin anew.
    """
    codec, base = stream.codec_context.codec.canonical_name, stream.time_base
    if (
        codec not in _ONE_PACKET_ONE_FRAME
        or base is None
        or container.format.name in DECODING_TIMES
    ):
        return None
    stamps: list[int] = []
    keyframes: list[tuple[int, int]] = []
    lengths: dict[int, int] = {}
    decoded_until = None
    for packet in _packets(container, stream):
        if not packet.size:
            continue  # the end, or a frame that is shown again
        if packet.dts is not None:
            if decoded_until is not None and packet.dts < decoded_until:
                return None  # timestamps begin anew
            decoded_until = packet.dts
        if packet.is_discard or (codec == "vp8" and not memoryview(packet)[0] & _VP8_SHOWN):
            continue
        if packet.pts is None or packet.pos is None:
            # A frame that begins in the middle of the container's packet has no time there. FFmpeg
            # computes one from what it read before, and another one after a search.
            return None
        if packet.is_keyframe:
            keyframes.append((packet.pts, packet.pos))
        stamps.append(packet.pts)
        lengths[packet.pts] = packet.duration or 0
    order = np.argsort(stamps, kind="stable")
    if not stamps or len(lengths) < len(stamps):
        return None
    if np.abs(order - np.arange(len(order))).max() > _MAX_REORDERING:
        return None
    rising = sorted(stamps)
    last = lengths[rising[-1]] or _usual_length(np.diff(rising), stream)
    timeline = Timeline.of(rising, last, base)
    keyframes.sort()
    at = np.asarray([stamp for stamp, _ in keyframes], np.float64)
    return replace(timeline, keyframes=at, places=tuple(place for _, place in keyframes))


def _packets(container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    """Read the packets up to the end, or to where the container is damaged."""
    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except (StopIteration, FFmpegError, IndexError):  # IndexError: a stream begins in between
            return


def counted_timeline(stamps: Sequence[int | None], stream: VideoStream) -> Timeline:
    """Make the timeline of decoded frames.

    Where the timestamps begin anew, they go on from the last one. Where single ones do not rise,
    as many as possible are kept, and the others put between or beside them. Where there are none,
    the frame rate gives the times.

    Args:
        stamps: The timestamp of each frame, in the order in which they come.
        stream: The stream.
    """
    stamps = _continued(stamps)
    rising = _rising(stamps)
    if not rising or stream.time_base is None:
        return Timeline.of(range(len(stamps)), 1, 1 / _rate(stream))
    places, known = zip(*rising, strict=True)
    usual = _usual_length(np.diff(known) / np.diff(places), stream)
    before = [known[0] - usual * (places[0] - i) for i in range(places[0])]
    after = [known[-1] + usual * (i - places[-1]) for i in range(places[-1] + 1, len(stamps))]
    between = np.interp(range(places[0], places[-1] + 1), places, known)
    return Timeline.of([*before, *between, *after], usual, stream.time_base)


def _continued(stamps: Sequence[int | None]) -> list[int | None]:
    """Let timestamps that begin anew, as in streams that were put together, go on instead."""
    known = [stamp for stamp in stamps if stamp is not None]
    usual = max(1, int(np.median(np.abs(np.diff(known))))) if len(known) > 1 else 1
    result: list[int | None] = []
    last: list[int] = []  # the last three
    shift = 0
    for place, stamp in enumerate(stamps):
        if stamp is not None:
            coming = [each for each in stamps[place : place + 3] if each is not None]
            goes_on = all(a < b for a, b in pairwise(coming))
            if len(last) == 3 and goes_on and stamp + shift <= sorted(last)[1]:
                shift = max(last) + usual - stamp
            stamp += shift
            last = [*last, stamp][-3:]
        result.append(stamp)
    return result


@dataclass(frozen=True, slots=True)
class _Link:
    """A frame's number and timestamp, behind those of an earlier frame."""

    place: int
    stamp: int
    before: "_Link | None"


def _rising(stamps: Sequence[int | None]) -> list[tuple[int, int]]:
    """Find the longest series of rising timestamps: (place, timestamp) of each."""
    ends: list[int] = []  # the lowest last timestamp of a series of each length
    links: list[_Link] = []  # the last link of each such series
    for place, stamp in enumerate(stamps):
        if stamp is not None:
            length = bisect_left(ends, stamp)
            ends[length : length + 1] = [stamp]
            before = links[length - 1] if length else None
            links[length : length + 1] = [_Link(place, stamp, before)]
    series = []
    link = links[-1] if links else None
    while link is not None:
        series.append((link.place, link.stamp))
        link = link.before
    return series[::-1]


def begun_with(timeline: Timeline, first: int) -> Timeline | None:
    """Leave out the frames before the first that can be decoded.

    Args:
        timeline: The timeline by the packets.
        first: The timestamp of the first decoded frame.

    Returns:
        The timeline from there; None if it has no such timestamp.
    """
    (places,) = np.nonzero(timeline.stamps == first)
    if not len(places):
        return None
    if not (place := int(places[0])):
        return timeline
    starts = (timeline.starts[place:] - timeline.starts[place]).round(4)
    duration = round(timeline.duration - timeline.starts[place], 4)
    return replace(
        timeline,
        stamps=timeline.stamps[place:],
        starts=starts,
        duration=duration,
        fps=round(len(starts) / duration, 6),
    )


def _usual_length(lengths: NDArray[Any], stream: VideoStream) -> int:
    """Estimate a frame's duration, in units of the time base.

    Args:
        lengths: The durations of some frames.
        stream: The stream, whose frame rate is taken if there are none.
    """
    if len(lengths):
        return max(1, int(np.median(lengths)))
    assert stream.time_base is not None
    return max(1, round(1 / (_rate(stream) * stream.time_base)))


def _rate(stream: VideoStream) -> Fraction:
    """Read the frame rate that the container claims, or take 25, as FFmpeg does."""
    rate = stream.average_rate or stream.guessed_rate
    return Fraction(rate) if rate else Fraction(25)
