"""The public names of `visreplay.tasks`, and the examples in the docstrings."""

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from visreplay import tasks
from visreplay.tasks.evaluation.comparison import RunComparison

FOLDER = Path(__file__).parents[2] / "tasks"
EXAMPLES = [
    "visreplay.tasks." + ".".join(path.relative_to(FOLDER).with_suffix("").parts)
    for path in sorted(FOLDER.rglob("*.py"))
    if ">>>" in path.read_text("utf-8")
]


def test_the_public_names() -> None:
    assert tasks.__all__ == ["Run", "Task", "TaskInfo", "compare", "evaluate", "get_task"]
    for name in tasks.__all__:
        assert getattr(tasks, name).__name__ == name
    assert tasks.compare.__annotations__["return"] in (RunComparison, "RunComparison")


def test_there_are_examples() -> None:
    assert "visreplay.tasks.statistics" in EXAMPLES


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_in_docstrings_run(module: str) -> None:
    result = doctest.testmod(import_module(module))
    assert result.attempted
    assert not result.failed


LIGHT_MODULES = (
    "visreplay.tasks",
    "visreplay.tasks.registry",
    "visreplay.tasks.types",
    "visreplay.tasks.evaluation.runs",
    "visreplay.tasks.evaluation.summary",
    "visreplay.tasks.evaluation.tables",
    "visreplay.tasks.evaluation.comparison",
    "visreplay.tasks.evaluation.export",
    "visreplay.tasks.evaluation.evaluate",
    "visreplay.tasks.viewer.page",
)


def test_reading_runs_imports_no_model_library() -> None:
    code = (
        f"import sys\nfor name in {LIGHT_MODULES}: __import__(name)\n"
        "from visreplay.tasks import Run, compare, get_task\n"
        "get_task('visual-search-easy').load('visual-search-easy-1')\n"
        "heavy = ('torch', 'transformers', 'langgraph', 'langchain_core', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_the_registry_opens_no_data_set() -> None:
    code = (
        "import sys, visreplay.tasks.registry\n"
        "print([name for name in sys.modules if name.startswith('visreplay.tasks.datasets.')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
