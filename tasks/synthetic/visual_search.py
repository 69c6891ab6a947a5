"""Synthetic visual search: a scene of coloured markers whose characters the overview hides.

A sample of level medium: a 1344 x 1344 scene with three markers, and the question

    Which character is on the red marker?

The model sees the scene shrunk to 224 x 224, where a marker is 14 pixels wide and its character
2 or 3 pixels tall, too small to read; a crop of the marker shows it. A scene is drawn
from its seed whenever it is needed, and never stored.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from visreplay.tasks.synthetic.sprites import (
    CHARACTERS,
    COLOURS,
    SHAPES,
    Pixels,
    glyph_mask,
    gradient,
    paste,
    shape_mask,
)
from visreplay.tasks.synthetic.synthetic_task import SyntheticTask
from visreplay.tasks.types import Sample

CELLS = 8
"""Rows and columns of the grid that markers stand on; a cell is a visual token of the overview."""


@dataclass(frozen=True, slots=True)
class SceneLevel:
    """The difficulty of a scene.

    Attributes:
        name: The end of the task's name.
        side: Side of the scene in pixels.
        markers: Number of coloured markers with a character; the question names one by its colour.
        plain: Number of grey shapes without a character.
        noise: Standard deviation of the pixel noise, in grey levels.
        shadows: Number of dark bands across the scene.
    """

    name: str
    side: int = 1344
    markers: int = 1
    plain: int = 4
    noise: float = 0.0
    shadows: int = 0


EASY = SceneLevel("easy")
MEDIUM = SceneLevel("medium", markers=3)
HARD = SceneLevel("hard", side=2016, markers=6, plain=8, noise=8.0, shadows=3)


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker in a scene.

    Attributes:
        colour: A key of `COLOURS`.
        column: Column of its cell, from the left, from 0.
        row: Row of its cell, from the top, from 0.
        character: The character on it.
        centre: Its centre, (x, y) in pixels.
    """

    colour: str
    column: int
    row: int
    character: str
    centre: tuple[int, int]


@dataclass(frozen=True, slots=True)
class VisualSearch(SyntheticTask):
    """Visual search at one level of difficulty."""

    level: SceneLevel

    @property
    def name(self) -> str:
        """The name on the command line: `visual-search-` and the level."""
        return f"visual-search-{self.level.name}"

    def sample(self, seed: int) -> Sample:
        """Draw the scene of a seed."""
        rng = np.random.default_rng([seed, CELLS, self.level.markers])
        markers, canvas = _draw(self.level, rng)
        target = markers[int(rng.integers(len(markers)))]
        return Sample(
            sample_id=f"{self.name}-{seed}",
            question=f"Which character is on the {target.colour} marker?",
            answer=target.character,
            images=(Image.fromarray(canvas),),
            facts={"markers": markers, "target": target},
        )


TASKS = {task.name: task for task in map(VisualSearch, (EASY, MEDIUM, HARD))}
"""The tasks by name."""


def _draw(level: SceneLevel, rng: np.random.Generator) -> tuple[tuple[Marker, ...], Pixels]:
    """Draw a scene, `(side, side, 3)`, with its markers from top to bottom and left to right."""
    canvas = gradient(level.side).copy()
    cell = level.side // CELLS
    for _ in range(level.shadows):
        _darken_band(canvas, rng)

    places = rng.choice(CELLS * CELLS, level.markers + level.plain, replace=False)
    for place in places[level.markers :]:
        grey = int(rng.integers(110, 190))
        side = int(rng.integers(cell * 2 // 5, cell * 3 // 5))
        mask = shape_mask(SHAPES[rng.integers(len(SHAPES))], side)
        paste(canvas, mask, _random_centre(int(place), cell, side, rng), (grey, grey, grey))

    colours = rng.choice(list(COLOURS), level.markers, replace=False)
    markers = []
    for place, colour in zip(sorted(places[: level.markers]), colours, strict=True):
        character = CHARACTERS[rng.integers(len(CHARACTERS))]
        row, column = divmod(int(place), CELLS)
        side = cell // 2 + int(rng.integers(cell // 8))
        # Off the middle by half a visual token of the crop: a tiny vision tower learns to read a
        # character that a token holds whole a hundred times faster than one cut at random.
        x, y = rng.choice((-1, 1), 2) * (cell // 12)
        centre = (column * cell + cell // 2 + int(x), row * cell + cell // 2 + int(y))
        rgb = COLOURS[str(colour)]
        paste(canvas, shape_mask(SHAPES[rng.integers(2)], side), centre, rgb)
        red, green, blue = (value * 3 // 10 for value in rgb)
        paste(canvas, glyph_mask(character, cell // 12), centre, (red, green, blue))
        markers.append(Marker(str(colour), column, row, character, centre))
    if level.noise:
        # Normal deviates are costly at this size: one tile of them, repeated.
        tile = rng.normal(0, level.noise, (252, 252, 3)).astype(np.int16)
        repeats = level.side // 252
        noisy = canvas.astype(np.int16) + np.tile(tile, (repeats, repeats, 1))
        canvas = np.clip(noisy, 0, 255).astype(np.uint8)
    return tuple(markers), canvas


def _random_centre(place: int, cell: int, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Choose a random centre in a cell such that a sprite of `side` pixels stays inside it."""
    row, column = divmod(place, CELLS)
    room = (cell - side) // 2 - 1
    x, y = rng.integers(-room, room + 1, 2)
    return column * cell + cell // 2 + int(x), row * cell + cell // 2 + int(y)


def _darken_band(canvas: Pixels, rng: np.random.Generator) -> None:
    side = canvas.shape[0]
    start, width = int(rng.integers(side)), int(rng.integers(side // 16, side // 8))
    band = canvas[:, start : start + width] if rng.integers(2) else canvas[start : start + width]
    band[...] = (band * 0.6).astype(np.uint8)
