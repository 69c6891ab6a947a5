"""The example for smolagents runs without changes."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "smolagents_search.py"


def test_it_looks_closer_and_answers(capsys: pytest.CaptureFixture[str]) -> None:
    played = runpy.run_path(str(EXAMPLE))
    agent, sample = played["agent"], played["sample"]
    assert played["answer"] == sample.answer
    task, look, answer = agent.memory.steps
    assert [call.name for call in look.tool_calls] == ["zoom"]
    assert len(look.observations_images) == 1
    assert answer.is_final_answer
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{task.task} {sample.answer}, and it is {sample.answer}"
