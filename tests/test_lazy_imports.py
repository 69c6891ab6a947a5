"""Imports that only a model needs: a child process looks at its own modules."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from records import record, run_of

HEAVY = ("torch", "transformers", "langgraph", "langchain_core")

AT_EXIT = f"""
import atexit, sys
atexit.register(lambda: print("imported", *sorted(set({HEAVY!r}) & set(sys.modules))))
"""

COMMANDS = (
    "run", "demo", "tasks", "eval", "score", "table", "compare", "view", "export", "analyze",
    "perturb", "calibrate", "serve", "mcp", "doctor",
)  # fmt: skip


def heavy_imports(program: str, *arguments: str) -> list[str]:
    """The heavy modules that a program has imported at its end; it must succeed."""
    ended = subprocess.run(
        [sys.executable, "-c", AT_EXIT + program, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    first, *modules = ended.stdout.splitlines()[-1].split()
    assert first == "imported"
    return modules


def heavy_imports_of_command(*arguments: str) -> list[str]:
    program = "from visreplay.tasks.commands.cli import main; main()"
    return heavy_imports(program, *arguments)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The folders of two runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, right in (("one", True), ("two", False)):
        reply = {"role": "assistant", "content": [{"type": "text", "text": "So B."}]}
        records = [
            record("a", right, messages=(reply,)),
            record("b", not right, messages=(reply,)),
        ]
        run_of(folder / name, *records)
    return str(folder / "one"), str(folder / "two")


@pytest.mark.parametrize(
    "program",
    [
        "import visreplay",
        "import visreplay.agent, visreplay.replay_core, visreplay.tasks, visreplay.tools",
    ],
)
def test_importing_the_package_is_light(program: str) -> None:
    assert heavy_imports(program) == []


def test_a_heavy_import_is_noticed() -> None:
    assert "torch" in heavy_imports("from visreplay import load_pair")


@pytest.mark.parametrize("argument", ["--help", "--version", "tasks"])
def test_a_first_look_is_light(argument: str) -> None:
    assert heavy_imports_of_command(argument) == []


def test_the_help_page_of_every_command_is_light() -> None:
    program = """
import sys
from visreplay.tasks.commands.cli import app
for name in sys.argv[1:]:
    app([name, "--help"], standalone_mode=False)
"""
    assert heavy_imports(program, *COMMANDS) == []


def test_commands_on_recorded_runs_are_light(runs: tuple[str, str], tmp_path: Path) -> None:
    page, predictions = tmp_path / "page.html", tmp_path / "predictions.tsv"
    log = tmp_path / "log.json"
    assert heavy_imports_of_command("table", *runs) == []
    assert heavy_imports_of_command("compare", *runs) == []
    assert heavy_imports_of_command("view", *runs, "--out", str(page), "--no-open") == []
    for form, out in (("vlmevalkit", predictions), ("inspect", log)):
        assert heavy_imports_of_command("export", runs[0], "--to", form, "--out", str(out)) == []
    assert "<html" in page.read_text("utf-8")
    assert predictions.read_text("utf-8").startswith("index\tquestion\t")
    assert len(json.loads(log.read_text("utf-8"))["samples"]) == 2
