from pathlib import Path

import pytest
from PIL import Image
from shared import png, write_picture, write_tsv

from visreplay.agent import Question
from visreplay.tasks.datasets.image_qa import OPEN_RULES
from visreplay.tasks.registry import get_task
from visreplay.tasks.types import Sample, Task

ROW: dict[str, object] = {"index": 0, "image": png("red"), "question": "How wide is the gap?"}


def opened(tmp_path: Path, name: str, **fields: object) -> tuple[Task, Sample]:
    task = get_task(name, write_tsv(tmp_path / f"{name}.tsv", [ROW | fields]))
    return task, task.load("0")


def test_options_in_columns(tmp_path: Path) -> None:
    task, sample = opened(
        tmp_path, "mmmu", hint="Count.", A="2", B="3", C="", D="", answer="B", category="Physics"
    )
    assert sample.question == (
        "Hint: Count.\nHow wide is the gap?\nA. 2\nB. 3\n"
        "Answer with the letter of the right option."
    )
    assert (sample.category, sample.facts["options"]) == ("Physics", {"A": "2", "B": "3"})
    assert task.is_right(sample, "\\boxed{B}")
    assert not task.is_right(sample, "\\boxed{2}")


def test_options_in_a_list_and_in_the_question(tmp_path: Path) -> None:
    question = "Hint: give the letter.\nQuestion: What share?\nChoices:\n(A) 3/11\n(B) 8/11"
    task, sample = opened(
        tmp_path, "mathvista", question=question, question_type="multi_choice",
        choices="['3/11', '8/11']", answer="8/11", answer_option="B", answer_type="text",
    )  # fmt: skip
    assert sample.question == question
    assert sample.parts == Question(question, kind="options")
    assert sample.answer == "B"
    assert task.is_right(sample, "The correct answer is (B) 8/11.")


@pytest.mark.parametrize(
    "choices",
    [
        "['red', 'dark blue']",
        '["red", "dark blue"]',
        "('red', 'dark blue')",
        "['red' 'dark blue']",
        "['red'\n 'dark blue']",
    ],
)
def test_options_as_json_python_or_numpy_print_them(tmp_path: Path, choices: str) -> None:
    _, sample = opened(tmp_path, "mathvista", choices=choices, answer="dark blue")
    assert sample.facts["options"] == {"A": "red", "B": "dark blue"}
    assert sample.answer == "B"


def test_options_in_the_question_alone(tmp_path: Path) -> None:
    question = "How long is BC?\nChoices:\nA:2\nB:2√3\nC:√3"
    task, sample = opened(
        tmp_path, "mathverse", question=question, question_type="multi-choice", answer="C"
    )
    assert sample.question == question
    assert task.is_right(sample, "C:√3")
    assert not task.is_right(sample, "B")


@pytest.mark.parametrize(
    ("kind", "precision", "expected", "right", "wrong"),
    [
        ("integer", "", "14", "The number is 14.", "14.4"),
        ("float", "1.0", "2.4", "2.43 m", "2.5"),
        ("float", "2.0", "1.45", "She needs $1.45", "1.4"),
    ],
)
def test_numbers_have_a_precision(
    tmp_path: Path, kind: str, precision: str, expected: str, right: str, wrong: str
) -> None:
    task, sample = opened(
        tmp_path, "mathvista", question_type="free_form", choices="[]", answer_type=kind,
        precision=precision, answer=expected,
    )  # fmt: skip
    assert sample.question == ROW["question"]
    assert task.is_right(sample, right)
    assert not task.is_right(sample, wrong)


def test_mathematics_for_open_answers(tmp_path: Path) -> None:
    task, sample = opened(tmp_path, "mathvision", answer="\\frac{1}{2}")
    assert task.is_right(sample, "\\boxed{\\frac12}")
    assert task.is_right(sample, "0.5")
    assert not task.is_right(sample, "\\boxed{2}")


def test_several_letters(tmp_path: Path) -> None:
    task, sample = opened(tmp_path, "logicvista", answer="A, C")
    assert task.is_right(sample, "The answer is A and C.")
    assert not task.is_right(sample, "A")


def test_texts_and_bare_numbers(tmp_path: Path) -> None:
    task, sample = opened(tmp_path, "mmmu", answer="12.97")
    assert task.is_right(sample, "The answer is 12.97 g.")
    assert not task.is_right(sample, "13")


def test_several_images_and_their_marks(tmp_path: Path) -> None:
    _, sample = opened(
        tmp_path, "mmmu", image=repr([png("red"), png("blue")]), answer="x",
        question="<image 1> Compare it with <image 2>.",
    )  # fmt: skip
    assert sample.question == "[image 1] Compare it with [image 2]."
    first, second = sample.images
    assert isinstance(first, Image.Image) and isinstance(second, Image.Image)
    assert (first.getpixel((0, 0)), second.getpixel((0, 0))) == ((255, 0, 0), (0, 0, 255))


def test_paths_of_images(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "a.png", "red")
    row: dict[str, object] = {
        **{"index": 0, "question": "What?", "answer": "x", "image_path": "images/a.png"}
    }
    task = get_task("image-qa", write_tsv(tmp_path / "a.tsv", [row]))
    assert len(task.load("0").images) == 1
    with pytest.raises(ValueError, match=r"row 1, field 'image_path': there is no b\.png"):
        get_task("image-qa", write_tsv(tmp_path / "b.tsv", [row | {"image_path": "b.png"}]))


@pytest.mark.parametrize("column", [None, ""])
def test_several_paths_of_images(tmp_path: Path, column: str | None) -> None:
    write_picture(tmp_path / "a.png", "red")
    write_picture(tmp_path / "b c.png", "blue")
    write_picture(tmp_path / "[d].png", "green")
    row: dict[str, object] = {"index": 0, "question": "What?", "answer": "x"}
    row |= {} if column is None else {"image": column}
    for paths, count in (
        ("['a.png', 'b c.png']", 2),
        ("('a.png', 'b c.png')", 2),
        ("['a.png' 'b c.png']", 2),
        ('["a.png"]', 1),
        ("[d].png", 1),
    ):
        path = write_tsv(tmp_path / "a.tsv", [row | {"image_path": paths}])
        assert len(get_task("image-qa", path).load("0").images) == count
    path = write_tsv(tmp_path / "b.tsv", [row | {"image_path": "['a.png', '../b.png']"}])
    with pytest.raises(ValueError, match=r"row 1, field 'image_path': '\.\./b\.png' leads out"):
        get_task("image-qa", path)


@pytest.mark.parametrize("missing", ["nan", "NaN"])
def test_options_that_pandas_writes_as_missing(tmp_path: Path, missing: str) -> None:
    empty = dict.fromkeys("CDE", missing) | {"hint": missing, "choices": missing}
    task, sample = opened(tmp_path, "mmmu", A="2", B="3", answer="B", category=missing, **empty)
    assert sample.facts["options"] == {"A": "2", "B": "3"}
    assert sample.category is None
    assert task.is_right(sample, "3")
    _, sample = opened(tmp_path, "mmmu", **dict.fromkeys("ABCD", missing), answer="7")
    assert sample.facts["options"] == {}
    # The right option may have been "N/A".
    task, sample = opened(tmp_path, "mmmu", A="2", B="3", C=missing, D=missing, answer="C")
    assert sample.facts["options"] == {"A": "2", "B": "3", "C": missing}
    assert task.is_right(sample, "C")
    with pytest.raises(ValueError, match=f"field 'answer': a text is needed; it is {missing}"):
        opened(tmp_path, "mmmu", answer=missing)


@pytest.mark.parametrize(
    ("answer", "written", "right"),
    [
        ("['24/7', '3.429']", "3.43", True),
        ("['24/7', '3.429']", "The ratio is 24/7.", True),
        ('["red", "crimson"]', "It is crimson.", True),
        ("['24/7', '3.429']", "3.5", False),
        ("['24/7', '3.429']", None, False),
        ("['24/7' '3.429']", "3.429", True),  # a Parquet file's, saved by pandas
        ("['24/7'\n '3.429']", "24/7", True),
        ("['24/7' '3.429']", "3.5", False),
        ("('24/7', '3.429')", "24/7", True),
        ("[24, 24.0]", "24", True),
        ("[24, 24.0]", "24.0", True),
        ("[24 24.]", "24", True),
        ("['24', 48/2]", "24", False),  # no list that anything prints
        (r"['\frac{1}{2}', '0.5']", "0.5", True),
        ("[1, 3]", "1", False),  # a list is the answer
        ("[1, 3]", "[1, 3]", True),
    ],
)
def test_any_of_several_accepted_answers_is_right(
    tmp_path: Path, answer: str, written: str | None, right: bool
) -> None:
    task, sample = opened(tmp_path, "mmmu", question_type="open", answer=answer)
    assert task.is_right(sample, written) == right


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"answer": ""}, "row 1, field 'answer'"),
        ({"A": "1", "B": "", "C": "3", "answer": "A"}, "field 'C': an option before it is empty"),
        ({"choices": "[1", "answer": "A"}, "field 'choices': a list of texts is needed"),
        ({"choices": "['red', 'blue' 'green']", "answer": "A"}, "field 'choices': a list of texts"),
        ({"choices": "__import__('os')", "answer": "A"}, "field 'choices': a list"),
        ({"answer_type": "integer", "answer": "many"}, "field 'answer': 'many' is not a number"),
        (
            {"answer_type": "float", "answer": "1.5", "precision": "fine"},
            "field 'precision': 'fine' is not a number of decimals",
        ),
    ],
)
def test_malformed_rows_are_refused(tmp_path: Path, fields: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        opened(tmp_path, "mathvista", **fields)


def test_variants_of_a_question_of_dynamath_are_a_group(tmp_path: Path) -> None:
    task, sample = opened(tmp_path, "dynamath", qid="7", answer_type="float", answer="2.236")
    assert sample.group == "7"
    assert task.is_right(sample, "\\boxed{2.2361}")
    assert not task.is_right(sample, "2.24")
    fields = {"answer_type": "multiple choice", "answer": "B"}
    task, sample = opened(tmp_path, "dynamath", qid="8", **fields)
    assert task.is_right(sample, "The answer is (B).")
    assert not task.is_right(sample, "C")


def test_a_split_is_kept(tmp_path: Path) -> None:
    _, sample = opened(tmp_path, "mmmu", answer="x", split="validation", category="Art")
    assert (sample.split, sample.category) == ("validation", "Art")


@pytest.mark.parametrize("name", sorted(OPEN_RULES.keys() - {"we-math"}))
def test_every_task_of_the_layout_opens(tmp_path: Path, name: str) -> None:
    task, sample = opened(tmp_path, name, answer="B")
    assert task.is_right(sample, "The answer is B.")
    assert not task.is_right(sample, "C")
    assert not task.is_right(sample, None)


def test_the_largest_picture_is_the_caller_s_to_set(tmp_path: Path) -> None:
    row = ROW | {"answer": "3"}  # of 40 x 30 pixels
    data = write_tsv(tmp_path / "mmmu.tsv", [row])
    with pytest.raises(ValueError, match=r"40 x 30 = 1200 pixels; at most 1000 are allowed"):
        get_task("mmmu", data, max_pixels=1000).load("0")
    assert get_task("mmmu", data, max_pixels=1200).load("0").images[0].size == (40, 30)
