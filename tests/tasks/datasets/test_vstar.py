from pathlib import Path

import pytest
from shared import write_json, write_picture

from visreplay.tasks.questions import inline_options
from visreplay.tasks.registry import get_task

LINE = {
    "image": "direct_attributes/sa_7.jpg",
    "text": "What is the color of the kite?\n(A) teal\n(B) pink\n"
    "Answer with the option's letter from the given choices directly.",
    "category": "direct_attributes",
    "question_id": "7",
    "label": "B",
}
RAW = {
    "target_object": ["kite", "boat"],
    "bbox": [[31, 14, 9, 9], [7, 8, 12, 6]],
    "question": "Is the kite left or right of the boat?",
    "options": ["It is left of it.", "It is right of it.", "It is above it.", "It is under it."],
}


def test_lines_have_their_options_in_the_text(tmp_path: Path) -> None:
    write_picture(tmp_path / "direct_attributes" / "sa_7.jpg", "teal")
    task = get_task("vstar", write_json(tmp_path / "test_questions.jsonl", [LINE]))
    sample = task.load("7")
    assert sample.question == LINE["text"]
    assert (sample.answer, sample.category) == ("B", "direct_attributes")
    assert len(sample.images) == 1
    assert task.is_right(sample, "(B) pink")
    assert task.is_right(sample, "The kite is pink.")
    assert not task.is_right(sample, "A")


@pytest.mark.parametrize(
    "text",
    [
        "What is the color? (A) teal (B) pink (C) dark blue\nAnswer with the option's letter.",
        "What is the color? A. teal B. pink C. dark blue",
        "What is the color?\n(A) teal, (B) pink,\n(C) dark blue",
        "What is the color? A) teal B) pink C) dark blue Answer with the option's letter directly.",
    ],
)
def test_options_on_one_line(tmp_path: Path, text: str) -> None:
    write_picture(tmp_path / "direct_attributes" / "sa_7.jpg", "teal")
    task = get_task("vstar", write_json(tmp_path / "a.jsonl", [LINE | {"text": text}]))
    sample = task.load("7")
    assert sample.facts["options"] == {"A": "teal", "B": "pink", "C": "dark blue"}
    assert sample.question == text
    assert task.is_right(sample, "The kite is pink.")


def test_only_the_last_option_ends_with_what_the_question_asks_for() -> None:
    text = "What? (A) the answer key (B) a select few (C) the sign Please answer with the letter."
    assert inline_options(text) == {"A": "the answer key", "B": "a select few", "C": "the sign"}


@pytest.mark.parametrize(
    "text", ["Is (A) bigger than (B)?", "What? (A) red (C) blue", "A. B. Smith"]
)
def test_letters_in_a_question_are_no_options(text: str) -> None:
    assert inline_options(text) == {}


def raw(folder: Path, count: int = 1) -> Path:
    for number in range(count):
        write_picture(folder / "relative_position" / f"sp_{number}.jpg", "blue")
        write_json(folder / "relative_position" / f"sp_{number}.json", RAW)
    return folder


def test_raw_options_are_shuffled_by_the_sample_alone(tmp_path: Path) -> None:
    task = get_task("vstar", raw(tmp_path / "a", 40))
    again = get_task("vstar", raw(tmp_path / "b", 40))
    samples = [task.load(sample_id) for sample_id in task.sample_ids()]
    for sample in samples:
        assert sample.facts["options"][sample.answer] == RAW["options"][0]  # type: ignore[index]
        assert f"{sample.answer}. It is left of it.\n" in sample.question
        assert again.load(sample.sample_id).question == sample.question
    counts = [sum(sample.answer == letter for sample in samples) for letter in "ABCD"]
    assert min(counts) >= 4
    assert samples[3].sample_id.startswith("relative_position/sp_")
    assert samples[3].category == "relative_position"


def test_the_same_order_on_every_machine(tmp_path: Path) -> None:
    task = get_task("vstar", raw(tmp_path, 6))
    assert "".join(task.load(sample_id).answer for sample_id in task.sample_ids()) == ORDER


ORDER = "DBCCDC"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"label": "C"}, "line 1, field 'label': 'C' is none of the options 'teal', 'pink'"),
        ({"text": "What?"}, "line 1, field 'text': there are no options in it"),
        ({"category": None}, "line 1, field 'category'"),
        ({"image": "sa_8.jpg"}, "line 1, field 'image': there is no sa_8.jpg"),
    ],
)
def test_malformed_lines_are_refused(
    tmp_path: Path, changes: dict[str, object], error: str
) -> None:
    write_picture(tmp_path / "direct_attributes" / "sa_7.jpg", "teal")
    with pytest.raises(ValueError, match=error):
        get_task("vstar", write_json(tmp_path / "a.jsonl", [LINE | changes]))


def test_a_raw_file_needs_its_picture_and_options(tmp_path: Path) -> None:
    folder = raw(tmp_path)
    (folder / "relative_position" / "sp_0.jpg").unlink()
    with pytest.raises(ValueError, match=r"sp_0\.json, .*no relative_position/sp_0\.jpg and no "):
        get_task("vstar", folder)
    write_json(folder / "relative_position" / "sp_0.json", RAW | {"options": ["one"]})
    with pytest.raises(ValueError, match="field 'options': two or more are needed"):
        get_task("vstar", folder)
