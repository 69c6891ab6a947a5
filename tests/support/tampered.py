"""Copies of checkpoints with other contents in some of their files."""

import json
from pathlib import Path
from typing import Any

CODE = """
from pathlib import Path

Path(__file__).with_name("was-run").touch()


class Evil:
    pass
"""
"""A module of a checkpoint that leaves a file behind if it is imported."""


def copied(checkpoint: str | Path, to: Path, **changes: dict[str, Any]) -> Path:
    """Copy a checkpoint; files of weights are linked.

    Args:
        checkpoint: The folder of the checkpoint.
        to: The folder of the copy, which is made.
        **changes: Keys to set in JSON files, by their names without ".json".
    """
    to.mkdir(parents=True)
    for file in Path(checkpoint).iterdir():
        if file.suffix == ".safetensors":
            (to / file.name).symlink_to(file.resolve())
        else:
            (to / file.name).write_bytes(file.read_bytes())
    for stem, values in changes.items():
        change(to / f"{stem}.json", **values)
    return to


def change(file: Path, **values: Any) -> None:
    """Set keys of a JSON file, which is made if it is not there."""
    content = json.loads(file.read_text("utf-8")) if file.exists() else {}
    file.write_text(json.dumps(content | values), "utf-8")


def own_bytes(file: Path, content: bytes) -> None:
    """Write a file in the place of one that may be a link."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)
