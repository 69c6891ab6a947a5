"""Generated video search: a clip in which a marker shows its character only for a moment.

A sample: a clip of 4 s at 16 frames a second, 112 x 112 pixels, and the question

    Which character appears on the marker?

The marker lights up for 0.6 s, and in the middle of that, for a third of a second, it carries a
character. Eight uniform frames show when it is lit, but the moment always falls between two of
them: frames around that moment must be asked for. The light goes from dawn to night, so the time
of a frame can be seen. At the hard level three markers light up, each at a moment and in a colour
of its own, and the question is about one colour. Clips are drawn from their seed into a file of a
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
from visreplay.tasks.synthetic.synthetic_task import GeneratedTask
from visreplay.tasks.types import Sample

SIDE = 112
"""Side of a clip in pixels."""
TOKEN = 28
"""Side of a visual token in pixels: places are the tokens of a frame."""
FPS = 16
SECONDS = 4
OVERVIEW_FRAMES = 8
"""Uniform frames of the overview: every half second, from 0.25 s."""

MOMENTS = tuple((1 + number) / 2 for number in range(2 * SECONDS - 1))
"""At which a marker may be lit: in the middle between two frames of the overview."""

_LIT = 0.3
_SHOWN = 0.16


@dataclass(frozen=True, slots=True)
class Light:
    """A marker that lights up.

    Attributes:
        moment: The middle of the time at which it is lit, in seconds.
        character: What it then shows.
        colour: Its colour while lit.
        shape: Its shape.
        centre: Its place (x, y) in pixels.
    """

    moment: float
    character: str
    colour: str
    shape: Shape
    centre: tuple[int, int]

    def draw(self, canvas: Pixels, time: float) -> None:
        """Draw it as it is at `time` seconds."""
        lit = abs(time - self.moment) < _LIT
        rgb = COLOURS[self.colour] if lit else (50, 50, 50)
        paste(canvas, shape_mask(self.shape, TOKEN), self.centre, rgb)
        if abs(time - self.moment) < _SHOWN:
            red, green, blue = (value * 3 // 10 for value in rgb)
            paste(canvas, glyph_mask(self.character, 14), self.centre, (red, green, blue))


@dataclass(frozen=True, slots=True)
class LightClip(Light):
    """A clip, drawn frame by frame: its marker, and what else is there.

    Attributes:
        plain: Centres (x, y) and sides of grey discs that never change.
        decoys: Markers that are not asked for.
    """

    plain: tuple[tuple[int, int, int], ...]
    decoys: tuple[Light, ...] = ()

    @classmethod
    def random(cls, rng: np.random.Generator, decoys: int = 0) -> "LightClip":
        """Draw the facts of a clip."""
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
        """The picture at `time` seconds, (SIDE, SIDE, 3) RGB."""
        daylight = 1.3 - 0.9 * time / SECONDS
        canvas = (gradient(SIDE) * daylight).clip(0, 255).astype(np.uint8)
        for x, y, side in self.plain:
            paste(canvas, shape_mask("disc", side), (x, y), (120, 120, 120))
        for light in (self, *self.decoys):
            light.draw(canvas, time)
        return canvas

    def write(self, path: Path) -> None:
        """Encode the clip as MPEG-4.

        Raises:
            OSError: If OpenCV cannot write the file.
        """
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (SIDE, SIDE))
        if not writer.isOpened():
            raise OSError(f"OpenCV cannot write {path}: is the folder writable, mp4v available?")
        for index in range(FPS * SECONDS):
            writer.write(cv2.cvtColor(self.frame(index / FPS), cv2.COLOR_RGB2BGR))
        writer.release()


@dataclass(frozen=True, slots=True)
class ClipLevel:
    """How hard a clip is.

    Attributes:
        name: The task's name.
        decoys: Markers that are not asked for.
    """

    name: str
    decoys: int = 0


EASY = ClipLevel("video-search")
HARD = ClipLevel("video-search-hard", decoys=2)


@dataclass(frozen=True, slots=True)
class VideoSearch(GeneratedTask):
    """The task at one level; its clips lie in a temporary folder until the process ends."""

    level: ClipLevel = EASY

    @property
    def name(self) -> str:
        """The level's."""
        return self.level.name

    def sample(self, seed: int) -> Sample:
        """Draw the clip of a seed into a file, if it is not there yet."""
        clip = LightClip.random(np.random.default_rng([seed, SIDE]), self.level.decoys)
        path = _clips() / f"{self.name}-{seed}.mp4"
        if not path.exists():
            clip.write(path)
        which = f"{clip.colour} marker" if clip.decoys else "marker"
        return Sample(
            sample_id=f"{self.name}-{seed}",
            question=f"Which character appears on the {which}?",
            answer=clip.character,
            video=path,
            facts={"clip": clip},
        )


@lru_cache(maxsize=1)
def _clips() -> Path:
    """The process's folder of clips."""
    folder = Path(tempfile.mkdtemp(prefix="visreplay-clips-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
