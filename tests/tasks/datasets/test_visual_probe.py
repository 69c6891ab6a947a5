from pathlib import Path

import pytest
from shared import png, write_json, write_picture, write_tsv

from visreplay.tasks.registry import get_task

ITEM = {
    "images": ["images/harbour_12.jpg"],
    "doc_id": "hard_12",
    "data_source": "VisualProbe_Hard",
    "problem": "<image>\nWhat is written on the lifebelt?",
    "solution": "MIRA II",
}


def test_json_with_paths(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "harbour_12.jpg", "grey")
    task = get_task("visual-probe-hard", write_json(tmp_path / "VisualProbe_Hard.json", [ITEM]))
    sample = task.load("hard_12")
    assert sample.question == "What is written on the lifebelt?"
    assert (sample.category, len(sample.images)) == ("VisualProbe_Hard", 1)
    assert task.is_right(sample, "The answer is **Mira II**.")
    assert not task.is_right(sample, "MIRA")


def test_the_common_table(tmp_path: Path) -> None:
    row: dict[str, object] = {
        **{"index": 4, "image": png("grey"), "question": "What is written?", "answer": "MIRA II"}
    }
    task = get_task("visual-probe-easy", write_tsv(tmp_path / "easy.tsv", [row]))
    sample = task.load("4")
    assert len(sample.images) == 1
    assert task.is_right(sample, "mira ii")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"images": []}, "item 1, field 'images': there must be at least one"),
        ({"images": "a.jpg"}, "item 1, field 'images': a list of texts is needed"),
        ({"images": ["a.jpg"]}, "item 1, field 'images': there is no a.jpg"),
        ({"solution": " "}, "item 1, field 'solution'"),
        ({"doc_id": {}}, "item 1, field 'doc_id': a text is needed, not {}"),
    ],
)
def test_malformed_items_are_refused(
    tmp_path: Path, changes: dict[str, object], error: str
) -> None:
    write_picture(tmp_path / "images" / "harbour_12.jpg", "grey")
    with pytest.raises(ValueError, match=error):
        get_task("visual-probe-medium", write_json(tmp_path / "a.json", [ITEM | changes]))
