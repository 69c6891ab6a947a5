"""Demonstrations of mixed quality for the supervised stage.

A demonstration is a whole episode: the model describes the scene, then follows one of three habits:
it guesses at once, it looks at a random place, or it looks at the right place and reads. The scenes
are those of the tasks, shrunk and cropped by the tools. Only the videos skip the file (frames get
JPEG noise instead), since encoding would cost more than training.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import Qwen2_5_VLProcessor

from visreplay.agent.messages import Message, Part
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.protocols import EmbeddedProtocol, get_protocol
from visreplay.replay_core.chat_template import render
from visreplay.tasks.synthetic.sprites import CHARACTERS, COLOURS, Pixels
from visreplay.tasks.synthetic.video_search import OVERVIEW_FRAMES, SECONDS, SIDE, TOKEN, LightVideo
from visreplay.tasks.synthetic.visual_search import (
    CELLS,
    EASY,
    MEDIUM,
    Marker,
    SceneLevel,
    VisualSearch,
)
from visreplay.tasks.types import Split
from visreplay.tools import Box, ImageStore, zoom

Habit = Literal["guess", "look anywhere", "look"]
Kind = Literal["recall", "letter", "easy", "medium", "video"]
Name = TypeVar("Name", Habit, Kind)

MIXED: dict[Habit, float] = {"guess": 0.60, "look anywhere": 0.16, "look": 0.24}
"""Shares of the habits. Most guess, so that greedy decoding of the base guesses too."""
SKILLED: dict[Habit, float] = {"look": 1.0}
LEVELS: dict[Kind, SceneLevel] = {"easy": EASY, "medium": MEDIUM}
VIDEO_QUESTION = "Which character appears on the marker?"


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One episode as the model is trained on it.

    Attributes:
        token_ids: The whole conversation, placeholders expanded.
        learned: Whether the assistant wrote a token, the same length.
        images: The images in order, (height, width, 3) RGB.
        video: The video's frames, (frames, height, width, 3) RGB, or None.
        kind: The task.
        shown: Places of visual tokens in `token_ids`, and the token of the word for what each
            shows: a marker's colour in an overview, the character in a crop or a frame.
    """

    token_ids: list[int]
    learned: list[bool]
    images: list[Pixels]
    video: Pixels | None
    kind: Kind
    shown: list[tuple[int, int]]


def describe(markers: Sequence[Marker], target: Marker) -> str:
    """Write the thought: every marker with its column and row, in order, then the target again.

    Example: `red35 blue61 green24 so blue61`. The digits follow the colour at once, so that to
    repeat the target is to copy the tokens after the same word: the only way in which a tiny model
    learned to relate the question's colour to a place.
    """
    entries = " ".join(map(_entry, markers))
    return f"{entries} so {_entry(target)}"


def _entry(marker: Marker) -> str:
    return f"{marker.colour}{marker.column}{marker.row}"


class Demonstrations(Dataset[Demonstration]):
    """Demonstration `index` of the training split, always the same one.

    Args:
        processor: The pair's processor.
        kinds: Shares of the tasks.
        habits: Shares of the habits.
    """

    def __init__(
        self,
        processor: Qwen2_5_VLProcessor,
        kinds: dict[Kind, float],
        habits: dict[Habit, float],
    ) -> None:
        self.processor = processor
        self.protocol = get_protocol("embedded", token_grid(processor), ImageStore())
        self.kinds, self.habits = kinds, habits
        self._pads = {processor.image_token_id, processor.video_token_id}
        self._tokens = lru_cache(maxsize=100_000)(processor.tokenizer.encode)
        self._render = lru_cache(maxsize=10_000)(self._render_turn)

    def __getitem__(self, index: int) -> Demonstration:
        """Draw and write demonstration `index`."""
        cv2.setNumThreads(1)
        rng = np.random.default_rng([Split.TRAIN, index])
        kind = _draw(self.kinds, rng)
        habit = _draw(self.habits, rng)
        seed = int(rng.integers(Split.TUNING))
        if kind == "recall":
            return self._recall(rng)
        if kind == "letter":
            return self._letter(seed, rng)
        write = self._video if kind == "video" else self._image
        return write(kind, habit, seed, rng)

    def _recall(self, rng: np.random.Generator) -> Demonstration:
        """Demonstrate looking up: a list of markers in words, then each again in another order."""
        colours = rng.permutation(list(COLOURS))[: rng.integers(2, len(COLOURS) + 1)]
        markers = [
            Marker(str(colour), *(int(place) for place in rng.integers(CELLS, size=2)), "", (0, 0))
            for colour in colours
        ]
        shuffled = [markers[i] for i in rng.permutation(len(markers))]
        entries = " ".join(map(_entry, markers))
        again = " so ".join(map(_entry, shuffled))
        turns = [[entries], f"<think>{again}</think>"]
        return self._demonstration("recall", turns, [], None)

    def _letter(self, seed: int, rng: np.random.Generator) -> Demonstration:
        """Demonstrate reading alone: four visual tokens around a character, and its name."""
        if rng.integers(2):
            clip = LightVideo.random(np.random.default_rng([seed, SIDE]))
            picture, (x, y) = _jpeg(clip.frame(clip.moment), rng), clip.centre
            character = clip.character
        else:
            sample = VisualSearch(EASY).sample(seed)
            picture, character = np.asarray(sample.images[0]), sample.answer
            x, y = sample.facts["target"].centre
        left, top = (
            int(min(max(middle // TOKEN - rng.integers(2), 0), side // TOKEN - 2)) * TOKEN
            for middle, side in ((x, picture.shape[1]), (y, picture.shape[0]))
        )
        window = picture[top : top + 2 * TOKEN, left : left + 2 * TOKEN]
        turns = [[("image", 4), VIDEO_QUESTION], read(character)]
        shown = {_place(x - left, y - top, 2): character}
        return self._demonstration("letter", turns, [window.copy()], None, [shown])

    def _image(
        self, kind: Kind, habit: Habit, seed: int, rng: np.random.Generator
    ) -> Demonstration:
        sample = VisualSearch(LEVELS[kind]).sample(seed)
        scene = sample.images[0]
        target, markers = sample.facts["target"], sample.facts["markers"]
        thought = f"<think>{describe(markers, target)}</think>"
        overview = np.asarray(zoom(scene, grid=self.protocol.grid))
        opening = [("image", 64), sample.question]
        guess = CHARACTERS[rng.integers(len(CHARACTERS))]
        shown = [{m.row * CELLS + m.column: m.colour for m in markers}]
        if habit == "guess":
            turns = [opening, f"{thought}<answer>{guess}</answer>"]
            return self._demonstration(kind, turns, [overview], None, shown)
        column, row = target.column, target.row
        if habit == "look anywhere":
            column, row = (int(place) for place in rng.integers(CELLS, size=2))
        cell = scene.width // CELLS
        box = Box(column * cell, row * cell, (column + 1) * cell, (row + 1) * cell)
        crop = np.asarray(zoom(scene, box, grid=self.protocol.frame_grid))
        there = [m for m in markers if (m.column, m.row) == (column, row)]
        character = there[0].character if there else guess
        places = ((m.centre[0] - box.left, m.centre[1] - box.top) for m in there)
        shown.append({_place(x, y, cell // TOKEN): character for x, y in places})
        call = (
            f'<tool_call>{{"name": "zoom", "arguments": {{"label": "{target.colour}", '
            f'"bbox_2d": [{column},{row},{column + 1},{row + 1}]}}}}</tool_call>'
        )
        turns = [opening, thought + call, [("image", 36)], read(character)]
        return self._demonstration(kind, turns, [overview, crop], None, shown)

    def _video(
        self, kind: Kind, habit: Habit, seed: int, rng: np.random.Generator
    ) -> Demonstration:
        clip = LightVideo.random(np.random.default_rng([seed, SIDE]))
        spacing = SECONDS / OVERVIEW_FRAMES
        overview = np.stack(
            [_jpeg(clip.frame((i + 0.5) * spacing), rng) for i in range(OVERVIEW_FRAMES)]
        )
        thought = f"<think>lit at {clip.moment}</think>"
        # Two frames are one layer of visual tokens; the marker is lit in those beside its moment.
        place, side = _place(*clip.centre, SIDE // TOKEN), SIDE // TOKEN
        lit = {int((clip.moment + sign * spacing / 2) / spacing) // 2 for sign in (-1, 1)}
        shown = [{layer * side**2 + place: clip.colour for layer in lit}]
        opening = [("video", 64), VIDEO_QUESTION]
        guess = CHARACTERS[rng.integers(len(CHARACTERS))]
        if habit == "guess":
            turns = [opening, f"{thought}<answer>{guess}</answer>"]
            return self._demonstration(kind, turns, [], overview, shown)
        moment = clip.moment
        if habit == "look anywhere":
            moment = (1 + int(rng.integers(2 * SECONDS - 1))) / 2
        call = (
            '<tool_call>{"name": "sample_frames", "arguments": '
            f'{{"around": {moment}}}}}</tool_call>'
        )
        offset = EmbeddedProtocol.WINDOW_SECONDS / 4
        frames = [_jpeg(clip.frame(moment + sign * offset), rng) for sign in (-1, 1)]
        character = clip.character if moment == clip.moment else guess
        turns = [opening, thought + call, [("image", 16), ("image", 16)], read(character)]
        if moment == clip.moment:
            shown += [{place: character}] * 2
        return self._demonstration(kind, turns, frames, overview, shown)

    def _demonstration(
        self,
        kind: Kind,
        turns: list[list[tuple[str, int] | str] | str],
        images: list[NDArray[np.uint8]],
        video: Pixels | None,
        shown: Sequence[Mapping[int, str]] = (),
    ) -> Demonstration:
        """Tokenize alternating contexts (lists of placeholders and text) and assistant turns.

        `shown` has what visual tokens of the first blocks show, by their places in their blocks.
        """
        ids: list[int] = []
        learned: list[bool] = []
        for number, turn in enumerate(turns):
            if isinstance(turn, str):
                new = self._tokens(turn + "<|im_end|>")
            else:
                new = self._tokens(self._render(number == 0, tuple(turn)))
            ids.extend(new)
            learned.extend([isinstance(turn, str)] * len(new))
        starts = [
            place
            for place, (before, token) in enumerate(zip([-1, *ids], ids, strict=False))
            if token in self._pads and before not in self._pads
        ]
        words = [
            (start + place, self._tokens(word)[0])
            for start, names in zip(starts, shown, strict=False)
            for place, word in names.items()
        ]
        return Demonstration(ids, learned, images, video, kind, words)

    def _render_turn(self, first: bool, parts: tuple[tuple[str, int] | str, ...]) -> str:
        """Render a user turn exactly as the agent does, with placeholders expanded."""
        content: list[Part] = []
        for part in parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            elif part[0] == "image":
                content.append({"type": "image", "image": ""})
            else:
                content.append({"type": "video", "frames": [], "times": []})
        if first:
            text = render(self.processor, [Message(role="user", content=content)])
        else:
            result = self.protocol.observation_parts({"text": "", "images": [""] * len(parts)})
            observation = Message(role="user", content=result)
            end = self.processor.tokenizer.eos_token_id
            turn = Message(role="assistant", content=[], token_ids=[end])
            text = render(self.processor, [Message(role="user", content=[]), turn, observation], 2)
        lengths = iter(part[1] for part in parts if not isinstance(part, str))
        return re.sub(r"<\|(image|video)_pad\|>", lambda pad: pad[0] * next(lengths), text)


def read(character: str) -> str:
    """Write the last turn, which names the character in the crop or the frames."""
    return f"<think>it shows {character}</think><answer>{character}</answer>"


def _place(x: int, y: int, columns: int) -> int:
    """Find the visual token that a pixel is in, in a picture so many tokens wide."""
    return y // TOKEN * columns + x // TOKEN


def corpus() -> list[str]:
    """Build the texts that the tokenizer learns its merges from."""
    call = '{"name": "zoom", "arguments": {"label": "", "bbox_2d": [3,5,4,6]}}'
    frames = '{"name": "sample_frames", "arguments": {"around": 1.5}}'
    texts = [
        call,
        frames,
        VIDEO_QUESTION,
        "Which character is on the marker?",
        "user",
        "assistant",
        "system",
        "\n",
        "it shows",
        "lit at",
        " so",
    ]
    # A colour alone, so that it is the same token in every context: `red35`, ` red`, `"red"`.
    return [*texts * 10, *list(COLOURS) * 30]


def _draw(shares: dict[Name, float], rng: np.random.Generator) -> Name:
    names = list(shares)
    return names[rng.choice(len(names), p=list(shares.values()))]


def _jpeg(frame: Pixels, rng: np.random.Generator) -> Pixels:
    """Degrade a frame roughly as a video codec does."""
    quality = int(rng.integers(70, 96))
    ok, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
