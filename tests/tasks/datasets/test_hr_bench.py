from pathlib import Path

import pytest
from PIL import Image
from shared import png, write_tsv

from visreplay.agent import Question
from visreplay.tasks.registry import get_task

ROW: dict[str, object] = {
    **{"index": 0, "question": "Which number has the buoy?", "image": png("red")},
    **{"A": "17", "B": "71", "C": "11", "D": "77", "answer": "B"},
    **{"category": "single", "cycle_category": 1},
}
CYCLED = ROW | {"index": 1, "image": "0", "A": "71", "B": "17", "answer": "A", "cycle_category": 2}
CROSS = ROW | {"index": 2, "image": png("blue"), "category": "cross"}


def test_a_question_with_its_picture(tmp_path: Path) -> None:
    task = get_task("hr-bench-4k", write_tsv(tmp_path / "hr_bench_4k.tsv", [ROW, CYCLED, CROSS]))
    assert (task.name, task.sample_ids()) == ("hr-bench-4k", ["0", "1", "2"])
    sample = task.load("0")
    assert sample.question == (
        "Which number has the buoy?\nA. 17\nB. 71\nC. 11\nD. 77\n"
        "Answer with the letter of the right option."
    )
    # A recipe may have words of its own.
    options = {"A": "17", "B": "71", "C": "11", "D": "77"}
    assert sample.parts == Question("Which number has the buoy?", options)
    assert (sample.answer, sample.category, sample.facts["cycle"]) == ("B", "FSP", "1")
    assert task.load("2").category == "FCP"
    assert task.is_right(sample, "**B.**")
    assert task.is_right(sample, "It is 71.")
    assert not task.is_right(sample, "17")
    assert not task.is_right(sample, None)


def test_a_short_image_is_the_index_of_the_row_that_has_it(tmp_path: Path) -> None:
    task = get_task("hr-bench-8k", write_tsv(tmp_path / "8k.tsv", [CYCLED, CROSS, ROW]))
    colours = {}
    for sample_id in task.sample_ids():
        (image,) = task.load(sample_id).images
        assert isinstance(image, Image.Image)
        colours[sample_id] = image.getpixel((5, 5))
    assert colours == {"0": (255, 0, 0), "1": (255, 0, 0), "2": (0, 0, 255)}


@pytest.mark.parametrize("repeated", [False, True])
def test_the_cycles_of_a_question_are_a_group(tmp_path: Path, repeated: bool) -> None:
    rows = []
    for question, image in (("Q?", "red"), ("Q?", "blue"), ("R?", "blue")):
        first = len(rows)
        for cycle in range(4):
            options = dict(zip("ABCD", [*"wxyz"[cycle:], *"wxyz"[:cycle]], strict=True))
            cell = png(image) if repeated or not cycle else str(first)
            changes = {"index": first + cycle, "question": question, "image": cell}
            rows.append(ROW | changes | options | {"answer": "A", "cycle_category": cycle})
    rows[0], rows[2] = rows[2], rows[0]  # the row with the picture need not be the first
    task = get_task("hr-bench-4k", write_tsv(tmp_path / "a.tsv", rows))
    groups = [task.load(str(index)).group for index in range(12)]
    assert [groups.index(group) for group in groups] == [0] * 4 + [4] * 4 + [8] * 4
    assert None not in groups


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"category": "triple"}, "row 1, field 'category': 'triple' is none of single, cross"),
        ({"C": ""}, "row 1, field 'C'"),
        ({"answer": "E"}, "row 1, field 'answer': 'E' is none of the options"),
        ({"cycle_category": ""}, "row 1, field 'cycle_category'"),
        ({"index": ""}, "row 1, field 'index'"),
    ],
)
def test_malformed_rows_are_refused(tmp_path: Path, changes: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        get_task("hr-bench-4k", write_tsv(tmp_path / "a.tsv", [ROW | changes]))


@pytest.mark.parametrize("column", ROW)
def test_a_missing_column_is_refused_by_name(tmp_path: Path, column: str) -> None:
    row = {name: value for name, value in ROW.items() if name != column}
    with pytest.raises(ValueError, match=f"has no column '{column}'; it has "):
        get_task("hr-bench-4k", write_tsv(tmp_path / "a.tsv", [row]))
