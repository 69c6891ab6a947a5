"""What is imported before anybody asks for a model: a child process looks at its own modules."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "langgraph", "langchain_core")

PROGRAM = """
import sys
{}
print(*sorted(set({!r}) & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "program",
    [
        "import visreplay",
        "import visreplay.agent, visreplay.replay_core, visreplay.tasks, visreplay.tools",
    ],
)
def test_it_imports_no_model_library(program: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(program, HEAVY)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == []
