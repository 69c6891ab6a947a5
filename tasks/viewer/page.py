"""`visreplay view`: runs side by side as one HTML page that needs neither a server nor a network.

run.jsonl, images/ -> write_page -> page.html: shell, index, code | details by sample | images

The index and the code come first, so the page can be used while the rest of a large file is still
being read. Details and images are blocks of text that the code looks at when they are shown; each
distinct image is there once. The page is written piece by piece: no more than one image and one
sample are in memory beside the runs' records.
"""

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from visreplay.tasks.evaluation.runs import Run
from visreplay.tasks.viewer.page_data import Pictures, detail, summary

LONGEST_SIDE = 896
"""Longest side of a picture on the page, in pixels."""

_SCRIPTS = ("pictures.js", "timeline.js", "viewer.js")
_UNSAFE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


@dataclass(frozen=True, slots=True)
class PageSummary:
    """What a page holds.

    Attributes:
        samples: Questions.
        trajectories: Episodes, over all runs.
        images: Distinct ones, maps included.
        missing: Of these, how many no store had.
        size: Of the file, in bytes.
    """

    samples: int
    trajectories: int
    images: int
    missing: int
    size: int


def write_page(runs: Sequence[Run], path: Path) -> PageSummary:
    """Write the page of one or several runs.

    Args:
        runs: In the order in which they are shown, side by side.
        path: The HTML file.

    Raises:
        ValueError: there is no run, or a record is not of the shape of a run's.
    """
    if not runs:
        raise ValueError("there is no run to show: name at least one folder")
    samples = list(dict.fromkeys(sample for run in runs for sample in run.records))
    index = {
        "runs": [{"name": run.name, "settings": run.settings} for run in runs],
        "samples": [summary(sample, runs) for sample in samples],
    }
    pictures = Pictures()
    missing = 0

    def images() -> Iterator[dict[str, Any]]:
        nonlocal missing
        for number, (reference, is_map) in enumerate(pictures):
            image = _find(reference, runs)
            missing += image is None
            if image is not None:
                yield {"number": number, **_encoded(image, is_map)}

    style, script = _source("viewer.css"), "".join(map(_source, _SCRIPTS))
    environment = Environment(
        loader=PackageLoader("visreplay.tasks.viewer"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("viewer.html.j2").stream(
        title=", ".join(run.name for run in runs),
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
        index=_json(index),
        details=(_json(detail(sample, runs, pictures)) for sample in samples),
        images=images(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        page.dump(file, encoding="utf-8")
    return PageSummary(
        samples=len(samples),
        trajectories=sum(len(r["rollouts"]) for run in runs for r in run.records.values()),
        images=len(pictures),
        missing=missing,
        size=path.stat().st_size,
    )


def _source(name: str) -> str:
    return (files("visreplay.tasks.viewer") / "templates" / name).read_text("utf-8")


def _hash(inline: str) -> str:
    """By which the page's content security policy knows its own code."""
    return base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()


def _json(value: object) -> Markup:
    """JSON that can stand in a script element: no character of it ends or opens anything."""
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_UNSAFE))


def _find(reference: str, runs: Sequence[Run]) -> Image.Image | None:
    """An image from whichever run has it; None where it was deleted or is damaged."""
    for run in runs:
        try:
            return run.store.get(reference)
        except (KeyError, ValueError, OSError):
            continue
    return None


def _encoded(image: Image.Image, is_map: bool) -> dict[str, Any]:
    """An image for the page: a map as it is, a picture shrunk; the size is the original's."""
    buffer = io.BytesIO()
    if is_map:
        image.save(buffer, "PNG", optimize=True)
    else:
        _small(image).save(buffer, "JPEG", quality=85, optimize=True)
    return {
        "type": "image/png" if is_map else "image/jpeg",
        "width": image.width,
        "height": image.height,
        "data": Markup(base64.b64encode(buffer.getvalue()).decode()),
    }


def _small(image: Image.Image) -> Image.Image:
    if image.mode == "1":
        image = image.convert("L")
    shrink = max(1.0, max(image.size) / LONGEST_SIDE)
    if shrink > 1:
        width, height = (max(1, math.floor(side / shrink)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    if image.mode in ("RGBA", "LA"):
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        image = paper
    return image.convert("RGB")
