"""README and docs against the code: every link, example, command, name and path in them exists."""

import ast
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from typer.main import get_command

import visreplay
from visreplay.tasks.commands.cli import app
from visreplay.tasks.registry import TASK_INFOS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = ("tools", "replay_core", "agent", "tasks", "connector", "benchmarks")
"""The folders of which the tree names every file."""
VLLMS = {"--dtype", "--folder", "--max-logprobs", "--source", "--tensor-parallel-size"}
"""Options of vLLM, and of the server with the connector, that pages mention."""
FOLDERS = (*CODE, "docs", "examples", "package", "recipes", "tests")

on_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def fenced(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages."""
    return [
        body for language, body in FENCE.findall(page.read_text("utf-8")) if language in languages
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(page: Path) -> list[list[str]]:
    """The words of every `visreplay ...` command line on a page."""
    lines = inline_code(page)
    for block in fenced(page, "sh"):
        lines += block.replace("\\\n", " ").splitlines()
    return [
        shlex.split(line, comments=True) for line in lines if re.match(r"visreplay [\w-]", line)
    ]


@cache
def options(name: str) -> set[str]:
    """The options of a command, or without a name those of `visreplay` itself."""
    group: Any = get_command(app)
    command = group.commands[name] if name else group
    # The context has the command itself, where the group holds a stand-in for it.
    context = command.make_context(name, [], resilient_parsing=True)
    known = {"--help"}
    for parameter in context.command.params:
        known.update(parameter.opts, parameter.secondary_opts)
    return known


def test_readme_is_short_and_has_no_gap() -> None:
    assert len(README.read_bytes()) <= 9_000
    assert not re.findall(r"(?:TIME|PACKAGES)_[A-Z]+", README.read_text("utf-8"))


@on_every_page
def test_links_and_images_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"https?:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


@on_every_page
def test_examples_compile_and_their_imports_exist(page: Path) -> None:
    for code in fenced(page, "python"):
        tree = ast.parse(code, str(page))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("visreplay"):
                for alias in node.names:
                    resolve_name(f"{node.module}:{alias.name}")
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "vr":
                assert node.attr in visreplay.__all__


@on_every_page
def test_commands_and_their_options_exist(page: Path) -> None:
    names = get_command(app).commands  # type: ignore[attr-defined]
    for _, *words in commands(page):
        name = "" if words[0].startswith("-") else words[0]
        assert not name or name in names, words
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= options(name), words
        if name in {"eval", "analyze", "perturb", "diagnose"} and words[1:]:
            assert words[1] in {info.name for info in TASK_INFOS}, words


@on_every_page
def test_options_that_are_mentioned_exist(page: Path) -> None:
    known = set().union(*map(options, ["", *get_command(app).commands]))  # type: ignore[attr-defined]
    mentioned = {code.split()[0] for code in inline_code(page) if code.startswith("--")}
    assert mentioned <= known | VLLMS


@on_every_page
def test_names_can_be_imported(page: Path) -> None:
    for name in re.findall(r"(?<!/)\bvisreplay(?:\.[A-Za-z_]\w*)+", page.read_text("utf-8")):
        resolve_name(name)


@on_every_page
def test_paths_exist(page: Path) -> None:
    for code in inline_code(page):
        if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/\S*", code):
            assert (ROOT / code).exists(), code


@on_every_page
def test_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for line in [*inline_code(page), *"".join(fenced(page, "sh")).splitlines()]:
        if match := re.match(r"make ([\w-]+)", line):
            assert match[1] in targets


def test_the_tree_names_every_file() -> None:
    (tree,) = (
        body for body in fenced(ROOT / "docs" / "architecture.md", "") if "  session.py" in body
    )
    named: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders[depth:] = [name]
        path = "".join(folders)
        assert (ROOT / path).exists(), path
        if name.endswith(".py"):
            named.add(path)
    files = {
        str(path.relative_to(ROOT))
        for folder in CODE
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.startswith("__")
    }
    assert named == files


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {project['version']}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation


def test_examples_in_docstrings_are_a_section_of_the_reference() -> None:
    """The reference renders "Examples:" as code, and "Example:" as running text."""
    for folder in CODE:
        for path in (ROOT / folder).rglob("*.py"):
            assert not re.search(r"^ *Example:$", path.read_text("utf-8"), re.MULTILINE), path
