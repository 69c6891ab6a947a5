"""What the demonstrations of the recipes teach."""

from typing import Any

import numpy as np
import pytest
from demonstrations import SKILLED, Demonstrations

from visreplay.replay_core import load_pair
from visreplay.tasks.synthetic.sprites import CHARACTERS, COLOURS

TOKEN = 28


def patches(demonstration: Any, pads: set[int]) -> dict[int, Any]:
    """The pixels behind every visual token, by its place in the context."""
    blocks = []
    if demonstration.video is not None:
        frames = demonstration.video
        # Two frames are one step in time; the brighter of both shows what is lit.
        blocks.append([np.maximum(*pair) for pair in zip(frames[::2], frames[1::2], strict=True)])
    blocks += [[image] for image in demonstration.images]
    found, waiting = {}, iter(blocks)
    before = None
    for place, token in enumerate(demonstration.token_ids):
        if token in pads and before not in pads:
            tiles = iter(tile for picture in next(waiting) for tile in tiled(picture))
        if token in pads:
            found[place] = next(tiles)
        before = token
    return found


def tiled(picture: Any) -> list[Any]:
    height, width = picture.shape[:2]
    return [
        picture[y : y + TOKEN, x : x + TOKEN]
        for y in range(0, height, TOKEN)
        for x in range(0, width, TOKEN)
    ]


def nearest(patch: Any) -> str:
    """The colour that most pixels of a patch are nearest to, if they are near one."""
    pixels = patch.reshape(-1, 3).astype(float)
    counts = {
        name: (np.abs(pixels - np.array(rgb)).max(axis=1) < 60).sum()
        for name, rgb in COLOURS.items()
    }
    return max(counts, key=lambda name: counts[name])


@pytest.mark.parametrize("kind", ["easy", "medium", "video", "letter"])
def test_visual_tokens_are_named_by_what_they_show(kind: str) -> None:
    processor = load_pair("embedded", device="cpu").processor
    pads = {processor.image_token_id, processor.video_token_id}
    made = Demonstrations(processor, {kind: 1.0}, SKILLED)
    colours = characters = 0
    for index in range(20):
        demonstration = made[index]
        shown = patches(demonstration, pads)
        for place, token in demonstration.shown:
            assert demonstration.token_ids[place] in pads
            word = processor.tokenizer.decode([token])
            if word in COLOURS:
                colours += 1
                assert nearest(shown[place]) == word
            else:
                characters += 1
                assert word in CHARACTERS
                # The character stands on its marker.
                dark = shown[place].min(axis=2)
                assert dark.min() < 100 < shown[place].max()
    assert (colours == 0) is (kind == "letter")
    assert characters >= 20


def test_a_guess_names_the_overview_alone() -> None:
    processor = load_pair("embedded", device="cpu").processor
    made = Demonstrations(processor, {"medium": 1.0}, {"guess": 1.0})
    words = [processor.tokenizer.decode([token]) for _, token in made[0].shown]
    assert len(words) == 3 and set(words) <= set(COLOURS)
