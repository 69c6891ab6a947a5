"""Shared by the tests of several folders: types of fixtures, and small real files."""

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from visreplay.agent import VisualAgent

MakeAgent = Callable[..., VisualAgent]
"""Type of the fixture `make_agent`: makes an agent on the embedded pair, by method and settings."""


def write_clip(path: Path, shades: list[int], fps: int = 10) -> Path:
    """Write a video of plain grey frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (64, 48))
    for shade in shades:
        writer.write(np.full((48, 64, 3), shade, np.uint8))
    writer.release()
    return path


def write_picture(path: Path, colour: str) -> Path:
    """Write a plain picture of 40 x 30."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)
    return path


def png(colour: str) -> str:
    """Encode a plain picture of 40 x 30 as the base64 of a PNG file."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def write_tsv(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    """Write a table whose columns are the keys of its first row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(path: Path, value: object) -> Path:
    """Write a JSON file, or JSON Lines if the name ends in .jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        assert isinstance(value, list)
        path.write_text("".join(json.dumps(row) + "\n" for row in value), "utf-8")
    else:
        path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    return path
