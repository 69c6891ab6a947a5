"""The exact token streams of scripted conversations, and the exact crops in them."""

import cv2
import numpy as np
import pytest
from conversations import GOLDEN, PICTURES, SCRIPTS, play, stream

from visreplay.agent.state import observations
from visreplay.replay_core import ModelPair

Crop = tuple[int, tuple[int, int, int, int], tuple[int, int]]

CROPS: dict[str, list[Crop]] = {
    "embedded": [(0, (420, 448, 560, 560), (140, 112))],
    "deepeyes": [(0, (0, 0, 168, 168), (168, 168))],
    # A tenth of the image more on every side; at least 256 tokens.
    "pixel-reasoner": [(1, (224, 179, 560, 448), (504, 420))],
    # The second is of the first, the third of the second.
    "mini-o3": [
        (0, (280, 224, 560, 448), (280, 224)),
        (0, (280, 224, 448, 392), (224, 224)),
        (0, (280, 224, 448, 392), (224, 224)),
    ],
    "qwen3-vl": [(1, (560, 224, 728, 392), (168, 168)), (0, (0, 0, 168, 168), (168, 168))],
    # In pixels of 224 x 196, as the pictures are shown; the third is of the first.
    "hermes": [
        (1, (0, 0, 560, 512), (224, 196)),
        (0, (0, 0, 560, 384), (252, 168)),
        (1, (0, 0, 280, 293), (196, 224)),
    ],
}
"""For every crop: the number of its picture, the region in pixels, and the size shown."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_token_stream(embedded_pair: ModelPair, name: str) -> None:
    golden = (GOLDEN / f"{name}.txt").read_text("utf-8")
    assert stream(embedded_pair.processor, SCRIPTS[name]) == golden


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_comes_to_its_answer(name: str) -> None:
    state, _ = play(SCRIPTS[name])
    assert state["stop_reason"] == "answered"
    assert len(state["steps"]) == len(SCRIPTS[name].turns)


@pytest.mark.parametrize("name", CROPS)
def test_the_crops_are_cut_from_the_pictures_themselves(name: str) -> None:
    state, protocol = play(SCRIPTS[name])
    for observation, (picture, box, size) in zip(observations(state), CROPS[name], strict=False):
        exact = np.asarray(PICTURES[picture].crop(box))
        if size != (box[2] - box[0], box[3] - box[1]):
            shrinks = size[0] * size[1] < exact.shape[0] * exact.shape[1]
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
            exact = cv2.resize(exact, size, interpolation=method)
        (reference,) = observation["images"]
        assert np.array_equal(np.asarray(protocol.store.get(reference)), exact)


def test_the_crop_of_a_crop_is_of_the_crop_as_pixel_reasoner_was_shown_it() -> None:
    state, protocol = play(SCRIPTS["pixel-reasoner"])
    first, second = observations(state)
    assert second["source"] == first["images"][0]
    assert second["box"] == [50, 42, 454, 378]
    crop = protocol.store.get(first["images"][0]).crop((50, 42, 454, 378))
    assert protocol.store.get(second["images"][0]).size == (504, 420) != crop.size


def test_sources_name_the_image_that_was_cropped() -> None:
    state, _ = play(SCRIPTS["mini-o3"])
    first, second, third = observations(state)
    assert first["source"] == state["images"][0]
    assert second["source"] == first["images"][0]
    assert third["source"] == second["images"][0]
    # The box counts pixels of the source as it was shown.
    assert (first["box"], second["box"]) == ([280, 224, 560, 448], [0, 0, 168, 168])
