"""Answers as models write them, each with its verdict: see `tests/data/answers/README.md`."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from visreplay.tasks.questions import options_by_letter
from visreplay.tasks.scoring.scorers import SCORER_KINDS, Scorer

FOLDER = Path(__file__).parents[2] / "data" / "answers"
FILES = sorted(FOLDER.glob("*.jsonl"))
FIELDS = {"scorer", "question", "options", "expected", "answer", "right"}


def entries(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def mistakes(entry: dict[str, Any]) -> list[str]:
    """Describe what is judged in another way than a careful reader does."""
    options = options_by_letter(entry.get("options") or [])
    scorer = Scorer(entry["scorer"], options) if options else Scorer(entry["scorer"])
    verdict = scorer.judge(entry["expected"], entry["answer"])
    found = []
    if verdict.right != entry["right"]:
        found.append(f"{entry['expected']!r} is {verdict}")
    if entry["right"] and entry["scorer"] == "option":
        others = [letter for letter in options if letter != entry["expected"]]
        found += [
            f"{letter!r} is right, too" for letter in others
            if scorer.judge(letter, entry["answer"]).right
        ]  # fmt: skip
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_answers_are_judged_as_by_a_careful_reader(file: Path) -> None:
    failures = [
        f"line {number}, {entry['answer']!r}: {mistake}"
        for number, entry in enumerate(entries(file), 1)
        for mistake in mistakes(entry)
    ]
    assert not failures, f"{file.stem}: {len(failures)} failures\n" + "\n".join(failures)


def test_there_are_answers_of_every_kind() -> None:
    lines = [entry for file in FILES for entry in entries(file)]
    assert len(lines) > 1000
    assert {entry["scorer"] for entry in lines} == set(SCORER_KINDS)
    assert all(entry.keys() <= FIELDS and "right" in entry for entry in lines)
    assert min(Counter(entry["right"] for entry in lines).values()) > 200
    listed = (FOLDER / "README.md").read_text("utf-8")
    assert all(f"| `{file.stem}` |" in listed for file in FILES)


def test_no_answer_is_there_twice() -> None:
    counts = Counter(line for file in FILES for line in file.read_text("utf-8").splitlines())
    assert [line for line, count in counts.items() if count > 1] == []


@pytest.mark.parametrize(
    ("before", "after"), [(" ", " "), ("\n\n", "\n"), ("\t", "  \n"), ("<think>A? 7!</think>", "")]
)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_space_and_thoughts_around_an_answer_change_nothing(
    file: Path, before: str, after: str
) -> None:
    for entry in entries(file):
        if entry["scorer"] != "mathematics":
            assert mistakes(entry | {"answer": f"{before}{entry['answer']}{after}"}) == [], entry
