from pathlib import Path

import pytest
from shared import png, write_tsv

from visreplay.tasks.registry import get_task

ROW: dict[str, object] = {
    "index": 0, "ID": 17, "key": "2steps_multi", "image": png("red"),
    "question": "What is the area of ABCD?", "A": "9 cm2", "B": "4 cm2", "answer": "A",
}  # fmt: skip


def test_a_question_is_of_a_problem(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"index": 1, "key": "3steps_2"}]
    task = get_task("we-math", write_tsv(tmp_path / "WeMath.tsv", rows))
    whole, step = (task.load(sample_id) for sample_id in task.sample_ids())
    assert (whole.category, whole.group) == ("2steps_multi", "2steps/17")
    # Problems of two and of three steps are numbered apart.
    assert (step.category, step.group) == ("3steps_2", "3steps/17")
    assert len(whole.images) == 1
    assert task.is_right(whole, "The answer is A.")
    assert not task.is_right(whole, "B")


@pytest.mark.parametrize("key", ["4steps_1", "2steps", "multi"])
def test_other_keys_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="row 1, field 'key'"):
        get_task("we-math", write_tsv(tmp_path / "WeMath.tsv", [ROW | {"key": key}]))
