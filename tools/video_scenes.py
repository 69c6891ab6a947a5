"""Scene changes between frames of a video."""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_CUT = 0.4
"""Bhattacharyya distance of two frames' histograms: above it there is a cut, not motion."""


def scene_starts(pictures: Sequence[Image.Image], scenes: int) -> list[int]:
    """Find the first picture, and those after the strongest changes of colour.

    Args:
        pictures: Frames in their order; small ones are enough.
        scenes: Largest number of scenes.
    """
    histograms = [_histogram(picture) for picture in pictures]
    distances = [
        cv2.compareHist(before, after, cv2.HISTCMP_BHATTACHARYYA)
        for before, after in pairwise(histograms)
    ]
    ranked = sorted(range(len(distances)), key=distances.__getitem__, reverse=True)
    return [0, *sorted(i + 1 for i in ranked[: scenes - 1] if distances[i] > _CUT)]


def _histogram(picture: Image.Image) -> NDArray[np.float32]:
    hsv = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2HSV)
    histogram = cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256])
    return np.asarray(histogram / histogram.sum(), np.float32)
