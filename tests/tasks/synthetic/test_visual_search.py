import numpy as np
import pytest

from visreplay.tasks.registry import SYNTHETIC_TASKS, get_task
from visreplay.tasks.synthetic.sprites import CHARACTERS
from visreplay.tasks.synthetic.visual_search import (
    CELLS,
    EASY,
    HARD,
    MEDIUM,
    SceneLevel,
    VisualSearch,
)
from visreplay.tasks.types import Split
from visreplay.tools import Box, TokenGrid, zoom

OVERVIEW = TokenGrid(28, 56 * 56, 224 * 224)


@pytest.mark.parametrize("name", SYNTHETIC_TASKS)
def test_a_seed_always_gives_the_same_sample(name: str) -> None:
    first, again, other = (get_task(name).sample(seed) for seed in (7, 7, 8))
    assert first.sample_id == again.sample_id == f"{name}-7"
    assert (first.question, first.answer) == (again.question, again.answer)
    assert [image.tobytes() for image in first.images] == [i.tobytes() for i in again.images]
    assert first.facts != other.facts


@pytest.mark.parametrize("level", [EASY, MEDIUM, HARD], ids=lambda level: level.name)
def test_the_question_is_about_one_of_the_markers(level: SceneLevel) -> None:
    for seed in range(5):
        sample = VisualSearch(level).sample(seed)
        markers, target = sample.facts["markers"], sample.facts["target"]
        assert len(markers) == level.markers  # type: ignore[arg-type]
        assert target in markers  # type: ignore[operator]
        assert sample.question == f"Which character is on the {target.colour} marker?"  # type: ignore[attr-defined]
        assert sample.answer in CHARACTERS
        assert sample.images[0].size == (level.side, level.side)


def test_markers_come_in_reading_order() -> None:
    for seed in range(20):
        markers = VisualSearch(HARD).sample(seed).facts["markers"]
        places = [(marker.row, marker.column) for marker in markers]  # type: ignore[attr-defined]
        assert places == sorted(places)


def test_the_overview_hides_the_character() -> None:
    """In the overview a character is a smudge of 3 pixels; in the crop it is 6 times as large."""
    sample = VisualSearch(EASY).sample(3)
    target = sample.facts["target"]
    scene = np.asarray(sample.images[0])
    x, y = target.centre  # type: ignore[attr-defined]
    plate = scene[y - 20 : y + 20, x - 20 : x + 20].astype(int)
    ink = np.abs(plate - plate[0, 0]).sum(-1) > 60
    height = np.ptp(np.nonzero(ink.any(1))[0]) + 1
    assert height * 224 / 1344 <= 3
    assert height >= 12

    cell = 1344 // CELLS
    box = Box(
        target.column * cell,  # type: ignore[attr-defined]
        target.row * cell,  # type: ignore[attr-defined]
        (target.column + 1) * cell,  # type: ignore[attr-defined]
        (target.row + 1) * cell,  # type: ignore[attr-defined]
    )
    crop = zoom(sample.images[0], box, grid=TokenGrid(28, 56 * 56, 168 * 168))
    assert crop.size == (168, 168)
    assert zoom(sample.images[0], grid=OVERVIEW).size == (224, 224)


def test_splits_are_disjoint() -> None:
    assert Split.TRAIN < Split.TUNING < Split.HELD_OUT


def test_unknown_tasks_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no task 'chess': see `visreplay tasks`"):
        get_task("chess")
