"""What is installed: every folder of code, and nothing that is not there."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {
        f"visreplay.{init.parent.relative_to(ROOT)}".replace("/", ".")
        for top in ("agent", "replay_core", "tasks", "tools")
        for init in (ROOT / top).rglob("__init__.py")
    }
    assert set(settings["packages"]) == {"visreplay", *folders}
