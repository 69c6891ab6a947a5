"""The examples in docstrings, run on the embedded pair."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "package": "visreplay",
    **{name: f"visreplay.{name}" for name in ("agent", "replay_core", "tasks", "tools")},
}

NOT_YET = {
    "visreplay.agent.episode.visual_agent",
    "visreplay.agent.langchain.chat_model",
    "visreplay.agent.serving.engine",
    "visreplay.agent.smolagents.model",
    "visreplay.agent.smolagents.tools",
    "visreplay.tasks.evaluation.journal",
}
"""Modules whose examples show the use, but cannot be run as they stand."""


def modules_with_examples() -> list[str]:
    names = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>>" in path.read_text("utf-8"):
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                names.append(".".join([package, *(part for part in parts if part != "__init__")]))
    return names


EXAMPLES = modules_with_examples()


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - NOT_YET))
def test_the_examples_of_a_module_run(name: str) -> None:
    results = doctest.testmod(import_module(name))
    assert results.attempted and not results.failed


def test_the_exceptions_are_modules_with_examples() -> None:
    assert set(EXAMPLES) >= NOT_YET
