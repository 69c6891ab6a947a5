"""The directions of house.md: nothing imports upwards, and everything by its installed name."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_KNOW = {
    "tools": {"tools"},
    "replay_core": {"replay_core"},
    "agent": {"agent", "tools", "replay_core"},
    "tasks": {"tasks", "agent", "tools", "replay_core"},
}
FILES = [path for folder in MAY_KNOW for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} is a relative import"
            modules.append(node.module or "")
    return modules


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for module in imported(path):
        top, _, rest = module.partition(".")
        assert top not in MAY_KNOW, f"import visreplay.{module}, not {module}"
        if top == "visreplay":
            assert rest.partition(".")[0] in MAY_KNOW[folder], f"{module} is above"


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 15
