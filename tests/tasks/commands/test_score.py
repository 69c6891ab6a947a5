import json
from pathlib import Path

import pytest
from records import record, run_of
from shared import png, write_json, write_tsv
from typer.testing import CliRunner

from visreplay.tasks.commands.cli import app
from visreplay.tasks.registry import get_task

LINE: dict[str, object] = {
    "scorer": "option", "options": ["red", "blue"], "expected": "B", "answer": "not red but blue"
}  # fmt: skip
ANSWERS = Path(__file__).parents[2] / "data" / "answers"


def score(*arguments: object) -> tuple[int, list[str], str]:
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    return result.exit_code, result.stdout.splitlines(), " ".join(result.stderr.split())


def judged(path: Path) -> tuple[int, list[dict[str, object]]]:
    code, lines, _ = score(path, "--json")
    return code, [json.loads(line) for line in lines]


def test_every_answer_is_shown_with_its_verdict_and_rule(tmp_path: Path) -> None:
    lines = [LINE, LINE | {"answer": "The answer is 'A'."}, LINE | {"answer": None}]
    code, shown, _ = score(write_json(tmp_path / "a.jsonl", lines))
    assert code == 0
    assert shown == [
        "right  line 1, expected B, read B: the only option whose text is in the answer",
        "       not red but blue",
        'wrong  line 2, expected B, read A: the letter after "the answer is"',
        "       The answer is 'A'.",
        "wrong  line 3, expected B, read nothing: there is no answer",
        "       no answer",
        "3 answers: 1 right, 2 wrong",
    ]


def test_json_has_an_object_a_line(tmp_path: Path) -> None:
    line = LINE | {"right": False}
    code, [only] = judged(write_json(tmp_path / "a.jsonl", [line]))
    assert code == 0
    assert only == {
        "label": "line 1",
        "right": True,
        "rule": "the only option whose text is in the answer",
        "reading": "B",
        "expected": "B",
        "answer": "not red but blue",
        "recorded": False,
        "error": None,
    }
    _, shown, _ = score(tmp_path / "a.jsonl")
    assert shown[0].endswith("; recorded as wrong")
    assert shown[-1] == "0 of 1 verdicts are as recorded"


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({"options": {"A": "red", "B": "blue"}}, True),
        ({"options": None, "answer": "B"}, True),
        ({"scorer": "letters", "options": ["red", "green", "blue"], "expected": "A, C",
          "answer": "A. red\nC. blue"}, True),
        ({"scorer": "value", "options": [], "expected": ["24/7", "3.429"], "answer": "3.43"}, True),
        ({"scorer": "number", "expected": 3, "answer": "There are three birds."}, True),
        ({"scorer": "number", "expected": 2.4, "answer": "2.43", "tolerance": 0.05}, True),
        ({"scorer": "number", "expected": 2.4, "answer": "2.43"}, False),
        ({"scorer": "text", "expected": "No", "answer": "No, it is not."}, True),
        ({"scorer": "mathematics", "expected": "1,2", "answer": "x = 1 or x = 2"}, True),
        ({"scorer": None, "task": "hr-bench-4k"}, True),
        ({"scorer": None, "task": "mmmu", "options": [], "expected": "3.429",
          "answer": "3.43"}, True),
        ({"scorer": None, "task": "mmvu", "options": [], "expected": "Depth-First Search (DFS)",
          "answer": "DFS"}, True),
        ({"scorer": None, "task": "visual-search-easy", "options": [], "expected": "red",
          "answer": "It is red."}, True),
    ],
)  # fmt: skip
def test_lines_name_a_scorer_or_a_task(
    tmp_path: Path, changes: dict[str, object], right: bool
) -> None:
    code, [only] = judged(write_json(tmp_path / "a.jsonl", [LINE | changes]))
    assert (code, only["right"], only["error"]) == (0, right, None)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"scorer": "magic"}, "line 1, field 'scorer': 'magic' is none of option, letters, text"),
        ({"scorer": None}, "line 1, field 'scorer': a line has either a scorer or a task"),
        ({"task": "mmmu"}, "line 1, field 'scorer': a line has either a scorer or a task"),
        ({"scorer": None, "task": "mmu"}, "field 'task': there is no task 'mmu' (did you mean mm"),
        ({"scorer": None, "task": "mlvu", "options": []}, "mlvu has no open questions: a question"),
        ({"options": "red"}, "line 1, field 'options': an object of options is needed"),
        ({"expected": None}, "line 1, field 'expected': a text is needed"),
        ({"expected": [[]]}, "line 1, field 'expected': a list of texts is needed"),
        ({"answer": 3}, "line 1, field 'answer': a text or null is needed, not 3"),
        ({"right": "yes"}, "line 1, field 'right': true or false is needed"),
        ({"scorer": "number", "tolerance": -1}, "line 1, field 'tolerance': a number from 0"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_the_others_are_judged(
    tmp_path: Path, changes: dict[str, object], error: str
) -> None:
    path = write_json(tmp_path / "a.jsonl", [LINE | changes, LINE])
    code, (bad, good) = judged(path)
    assert code == 1
    assert error in str(bad["error"])
    assert good["right"] is True
    code, shown, _ = score(path)
    assert code == 1
    assert shown[0].startswith("error  ")
    assert shown[-1] == "1 could not be read"


def test_files_without_lines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n", "utf-8")
    code, _, error = score(tmp_path / "a.jsonl")
    assert (code, "a.jsonl has no lines" in error) == (2, True)
    (tmp_path / "a.json").write_text("[1", "utf-8")
    code, _, error = score(tmp_path / "a.json")
    assert (code, "a.json is not JSON" in error) == (2, True)
    code, _, error = score(tmp_path / "nowhere.jsonl")
    assert (code, "nowhere.jsonl" in error) == (2, True)


def test_what_a_model_wrote_cannot_control_the_terminal(tmp_path: Path) -> None:
    line = LINE | {"answer": "\x1b[31mB\x07 [red]B[/]\n\u202eB"}
    _, shown, _ = score(write_json(tmp_path / "a.jsonl", [line]))
    assert shown[1] == "       \ufffd[31mB\ufffd [red]B[/] \ufffdB"


def test_the_corpus_of_answers_is_such_a_file() -> None:
    code, lines = judged(ANSWERS / "box.jsonl")
    assert code == 0
    assert all(line["right"] == line["recorded"] for line in lines)


def test_the_answers_of_a_run(tmp_path: Path) -> None:
    row = {"index": 0, "question": "Which one?", "image": png("red"), "A": "a cup", "B": "a cat"}
    rows = [row | {"index": number, "answer": "B"} for number in range(3)]
    data = write_tsv(tmp_path / "mmmu.tsv", rows)
    digest = get_task("mmmu", data).digest  # type: ignore[attr-defined]
    records = [
        record("0", True, True, answer="It's a cat."),
        record("1", True, False, answer="A"),
        record("2", error="ToolError: no"),
    ]
    run = run_of(
        tmp_path / "run", *records, task="mmmu", data=str(data), data_digest=digest, rollouts=2
    )
    code, lines = judged(run.folder)
    assert code == 0
    assert [(line["label"], line["right"], line["recorded"]) for line in lines] == [
        ("0, rollout 0", True, True), ("0, rollout 1", True, True),
        ("1, rollout 0", False, True), ("1, rollout 1", False, False)
    ]  # fmt: skip
    moved = data.rename(tmp_path / "moved.tsv")
    assert score(run.folder)[0] == 2
    assert score(run.folder, "--data", moved)[0] == 0
    write_tsv(moved, rows[:2])
    code, _, error = score(run.folder, "--data", moved)
    assert code == 2
    assert "is not the data of the run" in error
    assert score(ANSWERS / "box.jsonl", "--data", moved)[0] == 2


def test_the_answers_of_a_run_on_a_synthetic_task(tmp_path: Path) -> None:
    task = get_task("visual-search-easy")
    sample = task.load(task.sample_ids()[0])
    records = [record(sample.sample_id, True, answer=f"It is {sample.answer}.")]
    run = run_of(tmp_path / "run", *records, task="visual-search-easy", data=None)
    code, [line] = judged(run.folder)
    assert (code, line["right"], line["expected"]) == (0, True, sample.answer)
