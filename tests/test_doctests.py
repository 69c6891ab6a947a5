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

NOT_RUN = {"visreplay.agent.serving.engine"}
"""Modules whose examples cannot run as they stand: `async with` outside of a function."""


def modules_with_examples() -> list[str]:
    names = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>>" in path.read_text("utf-8"):
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                names.append(".".join([package, *(part for part in parts if part != "__init__")]))
    return names


EXAMPLES = modules_with_examples()


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - NOT_RUN))
def test_the_examples_of_a_module_run(name: str) -> None:
    results = doctest.testmod(import_module(name))
    assert results.attempted and not results.failed


def test_the_exceptions_are_modules_with_examples() -> None:
    assert set(EXAMPLES) >= NOT_RUN
