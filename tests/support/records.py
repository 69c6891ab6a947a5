"""Runs made by hand, for tests of code that reads runs."""

from pathlib import Path
from typing import Any

from visreplay.tasks.evaluation.journal import Journal
from visreplay.tasks.evaluation.runs import IMAGES, LINES, Run
from visreplay.tools import ImageStore

SETTINGS: dict[str, Any] = {
    "task": "hr-bench-4k",
    "data": "hr_bench_4k.tsv",
    "policy": "ChenShawn/DeepEyes-7B",
    "base": "Qwen/Qwen2.5-VL-7B-Instruct",
    "protocol": "deepeyes",
    "replay": {"method": "none"},
    "sampling": {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 64},
    "rollouts": 1,
    "seed": 0,
    "versions": {"visreplay": "0.1.0"},
}


def run_of(folder: Path, *records: dict[str, Any], **settings: Any) -> Run:
    """Write a run with these records, and open it."""
    with Journal(folder / LINES, {**SETTINGS, **settings}) as journal:
        for record in records:
            journal.add(record["sample_id"], record)
    return Run.open(folder)


def record(
    sample_id: str,
    *right: bool | tuple[bool, bool | None],
    category: str | None = None,
    error: str | None = None,
    question: str = "Which one?\nA. a cup\nB. a cat\nC. a car\nD. a cap",
    messages: tuple[dict[str, Any], ...] = (),
    answer: str | None = "B",
    group: str | None = None,
) -> dict[str, Any]:
    """Make a record from the score of each rollout: right or not, or a pair with the reasoning."""
    scores = [each if isinstance(each, tuple) else (each, None) for each in right]
    return {
        "sample_id": sample_id,
        "question": question,
        "expected": "B",
        "category": category,
        "group": group,
        "error": error,
        "seconds": 0.5,
        "rollouts": [
            {"right": is_right, "cot_right": cot, "trajectory": trajectory(answer, messages)}
            for is_right, cot in scores
        ],
    }


def trajectory(answer: str | None, messages: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Make a finished episode of one turn."""
    step = {
        "index": 0,
        "text": "It is a cat.\tSo B.\n",
        "thought": "It is a cat.",
        "tool_calls": [],
        "error": None,
        "replay": None,
        "seconds": 0.5,
    }
    return {
        "question": "Which one?",
        "answer": answer,
        "stop_reason": "no_answer" if answer is None else "answered",
        "seed": 7,
        "steps": [step],
        "images": [],
        "video": None,
        "messages": list(messages),
    }


def steady(value: Any) -> Any:
    """A record without the times, which differ from run to run."""
    if isinstance(value, dict):
        return {key: steady(each) for key, each in value.items() if key != "seconds"}
    return [steady(each) for each in value] if isinstance(value, list) else value


def store_of(folder: Path) -> ImageStore:
    """Open the images of a run."""
    return ImageStore(folder / IMAGES)
