"""Synthetic video search: a video in which a marker shows its character only for a moment.

A sample is a video of 4 s at 16 frames a second, 112 x 112 pixels, and the question

    Which character appears on the marker?

The marker lights up for 0.6 s. In the middle of that time it carries a character for a third of a
second. Eight uniform frames show when it is lit, but the moment always falls between two of them:
the policy must call for frames around that moment. The background goes from bright to dark, so a
frame shows its time. At the hard level three markers light up, each at its own moment and in its
own colour, and the question is about one colour. A video is drawn from its seed into a file of a
temporary folder.
"""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from visreplay.tasks.synthetic.sprites import (
    CHARACTERS,
    COLOURS,
    SHAPES,
    Pixels,
    Shape,
    glyph_mask,
    gradient,
    paste,
    shape_mask,
)
from visreplay.tasks.synthetic.synthetic_task import SyntheticTask
from visreplay.tasks.types import Sample

SIDE = 112
"""Side of a frame in pixels."""
TOKEN = 28
"""Side of a visual token in pixels; markers and discs stand on the tokens of a frame."""
FPS = 16
SECONDS = 4
OVERVIEW_FRAMES = 8
"""Number of uniform frames in the overview: one every half second, from 0.25 s."""

MOMENTS = tuple((1 + number) / 2 for number in range(2 * SECONDS - 1))
"""Seconds at which a marker may be lit: each lies midway between two frames of the overview."""

_LIT_SECONDS = 0.3
"""Time before and after its moment for which a marker is lit."""
_CHARACTER_SECONDS = 0.16
"""Time before and after its moment for which a marker carries its character."""


@dataclass(frozen=True, slots=True)
class Light:
    """A marker that lights up.

    Attributes:
        moment: The middle of the time for which it is lit, in seconds from the start.
        character: The character that it carries at its moment.
        colour: Its colour while it is lit, a key of `COLOURS`.
        shape: Its shape.
        centre: Its centre, (x, y) in pixels.
    """

    moment: float
    character: str
    colour: str
    shape: Shape
    centre: tuple[int, int]

    def draw(self, canvas: Pixels, time: float) -> None:
        """Draw the marker onto a frame as it looks at `time` seconds."""
        lit = abs(time - self.moment) < _LIT_SECONDS
        rgb = COLOURS[self.colour] if lit else (50, 50, 50)
        paste(canvas, shape_mask(self.shape, TOKEN), self.centre, rgb)
        if abs(time - self.moment) < _CHARACTER_SECONDS:
            red, green, blue = (value * 3 // 10 for value in rgb)
            paste(canvas, glyph_mask(self.character, 14), self.centre, (red, green, blue))


@dataclass(frozen=True, slots=True)
class LightVideo(Light):
    """A video, drawn frame by frame: the marker of the question, and all else in the picture.

    Attributes:
        plain: Centre (x, y) and side, in pixels, of each grey disc; discs never change.
        decoys: Markers that the question is not about.
    """

    plain: tuple[tuple[int, int, int], ...]
    decoys: tuple[Light, ...] = ()

    @classmethod
    def random(cls, rng: np.random.Generator, decoys: int = 0) -> "LightVideo":
        """Draw the contents of a video at random."""
        cells = rng.choice(16, 3 + decoys, replace=False)
        (x, y), *others = (
            (int(place) % 4 * TOKEN + TOKEN // 2, int(place) // 4 * TOKEN + TOKEN // 2)
            for place in cells
        )
        moment = int(rng.integers(len(MOMENTS)))
        character = CHARACTERS[rng.integers(len(CHARACTERS))]
        colour = str(rng.choice(list(COLOURS)))
        shape = SHAPES[rng.integers(2)]
        plain = tuple((px, py, int(rng.integers(12, 20))) for px, py in others[:2])
        moments = rng.permutation(np.delete(MOMENTS, moment))
        colours = rng.permutation([each for each in COLOURS if each != colour])
        lights = tuple(
            Light(
                float(moments[number]),
                CHARACTERS[rng.integers(len(CHARACTERS))],
                str(colours[number]),
                SHAPES[rng.integers(2)],
                place,
            )
            for number, place in enumerate(others[2:])
        )
        return cls(MOMENTS[moment], character, colour, shape, (x, y), plain, lights)

    def frame(self, time: float) -> Pixels:
        """Draw the frame at `time` seconds, `(SIDE, SIDE, 3)`, RGB."""
        daylight = 1.3 - 0.9 * time / SECONDS
        canvas = (gradient(SIDE) * daylight).clip(0, 255).astype(np.uint8)
        for x, y, side in self.plain:
            paste(canvas, shape_mask("disc", side), (x, y), (120, 120, 120))
        for light in (self, *self.decoys):
            light.draw(canvas, time)
        return canvas

    def write(self, path: Path) -> None:
        """Encode the video as MPEG-4.

        Raises:
            OSError: OpenCV cannot write the file.
        """
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (SIDE, SIDE))
        if not writer.isOpened():
            raise OSError(f"OpenCV cannot write {path}: is the folder writable, mp4v available?")
        for index in range(FPS * SECONDS):
            writer.write(cv2.cvtColor(self.frame(index / FPS), cv2.COLOR_RGB2BGR))
        writer.release()


@dataclass(frozen=True, slots=True)
class VideoLevel:
    """The difficulty of a video.

    Attributes:
        name: The task's name.
        decoys: Number of markers that the question is not about.
    """

    name: str
    decoys: int = 0


EASY = VideoLevel("video-search")
HARD = VideoLevel("video-search-hard", decoys=2)


@dataclass(frozen=True, slots=True)
class VideoSearch(SyntheticTask):
    """Video search at one level; its videos lie in a temporary folder until the process ends."""

    level: VideoLevel = EASY

    @property
    def name(self) -> str:
        """The name on the command line, which is the level's."""
        return self.level.name

    def sample(self, seed: int) -> Sample:
        """Draw the video of a seed into a file, unless that file exists."""
        video = LightVideo.random(np.random.default_rng([seed, SIDE]), self.level.decoys)
        path = _folder() / f"{self.name}-{seed}.mp4"
        if not path.exists():
            video.write(path)
        which = f"{video.colour} marker" if video.decoys else "marker"
        return Sample(
            sample_id=f"{self.name}-{seed}",
            question=f"Which character appears on the {which}?",
            answer=video.character,
            video=path,
            facts={"video": video},
        )


TASKS = {task.name: task for task in map(VideoSearch, (EASY, HARD))}
"""The tasks by name."""


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Make the folder for the videos of this process, which is deleted at its end."""
    folder = Path(tempfile.mkdtemp(prefix="visreplay-videos-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
