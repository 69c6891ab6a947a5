"""What is installed: every folder of code and no other, by versions that are pinned."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from visreplay.agent.protocols import RECIPES

ROOT = Path(__file__).parent.parent


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {
        f"visreplay.{init.parent.relative_to(ROOT)}".replace("/", ".")
        for top in ("agent", "replay_core", "tasks", "tools")
        for init in (ROOT / top).rglob("__init__.py")
    }
    assert set(settings["packages"]) == {"visreplay", "visreplay_connector", *folders}


def test_recipes_are_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folder = ROOT / "agent" / "protocols"
    patterns = settings["package-data"]["visreplay.agent.protocols"]
    installed = {path for pattern in patterns for path in folder.glob(pattern)}
    assert installed == set(folder.rglob("*.toml"))
    assert {path.stem for path in installed} == set(RECIPES)


def test_constraints_are_versions_alone_and_fit_the_requirements() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    pins = {plain(name): pin for name, pin in (line.split("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = project["optional-dependencies"].values()
    for line in [*project["dependencies"], *(line for group in groups for line in group)]:
        requirement = Requirement(line)
        if requirement.name != "visreplay":
            assert requirement.specifier.contains(pins[plain(requirement.name)]), line


def plain(name: str) -> str:
    """The name of a package in lower case with dashes, as PyPI compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()
