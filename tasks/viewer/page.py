"""Runs side by side as one HTML page that needs neither a server nor a network.

run.jsonl, images/ -> write_page -> page.html: shell, index, code | details by sample | images

The index and the code come first, so that the page works while the browser still reads the rest of
a large file. Details and images are blocks of text that the code parses when it shows them; each
distinct image occurs once. The page is written piece by piece: besides the runs' records, no more
than one image and one sample are in memory.
"""

import base64
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from visreplay.tasks.evaluation.runs import Run
from visreplay.tasks.viewer.page_data import ImageNumbers, sample_details, sample_summary
from visreplay.tools.disk import make_folder, replacing

LONGEST_SIDE = 896
"""Longest side of a picture on the page, in pixels."""

_SCRIPTS = ("pictures.js", "timeline.js", "viewer.js")
_UNSAFE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


@dataclass(frozen=True, slots=True)
class PageSummary:
    """The contents of a page, counted.

    Attributes:
        samples: Number of questions.
        trajectories: Number of episodes in all runs.
        images: Number of distinct images, with the maps.
        missing: Number of images that no run's folder has.
        size: Size of the file in bytes.
    """

    samples: int
    trajectories: int
    images: int
    missing: int
    size: int


def write_page(runs: Sequence[Run], path: Path) -> PageSummary:
    """Write the page of one or several runs.

    Args:
        runs: The runs, in the order in which the page shows them.
        path: The HTML file to write.

    Raises:
        ValueError: There is no run, or a record does not have the shape of a run's record.
        DiskError: The page cannot be written; an earlier one is left as it was.
    """
    if not runs:
        raise ValueError("there is no run to show: name at least one folder")
    samples = list(dict.fromkeys(sample for run in runs for sample in run.records))
    index = {
        "runs": [{"name": run.name, "settings": _named_numbers(run.settings)} for run in runs],
        "samples": [sample_summary(sample, runs) for sample in samples],
    }
    images = ImageNumbers()
    missing = 0

    def encoded_images() -> Iterator[dict[str, Any]]:
        nonlocal missing
        for number, (reference, is_map) in enumerate(images):
            image = _find(reference, runs)
            missing += image is None
            if image is not None:
                yield {"number": number, **_encode(image, is_map)}

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
        details=(_json(sample_details(sample, runs, images)) for sample in samples),
        images=encoded_images(),
    )
    make_folder(path.parent)
    with replacing(path) as descriptor, os.fdopen(descriptor, "wb", closefd=False) as file:
        page.dump(file, encoding="utf-8", errors="backslashreplace")
    return PageSummary(
        samples=len(samples),
        trajectories=sum(len(r["rollouts"]) for run in runs for r in run.records.values()),
        images=len(images),
        missing=missing,
        size=path.stat().st_size,
    )


def _source(name: str) -> str:
    return (files("visreplay.tasks.viewer") / "templates" / name).read_text("utf-8")


def _hash(inline: str) -> str:
    """Compute the hash by which the page's content security policy allows its own code."""
    return base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()


def _json(value: object) -> Markup:
    """Write JSON for a script element: no character of it can open or close an element."""
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_UNSAFE))


def _named_numbers(value: Any) -> Any:
    """Replace the numbers that JSON does not have by their names."""
    if isinstance(value, dict):
        return {key: _named_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_named_numbers(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _find(reference: str, runs: Sequence[Run]) -> Image.Image | None:
    """Load an image from the first run that has it; None if it is deleted or damaged."""
    for run in runs:
        try:
            return run.store.get(reference)
        except (KeyError, ValueError, OSError):
            continue
    return None


def _encode(image: Image.Image, is_map: bool) -> dict[str, Any]:
    """Encode an image for the page: maps whole, pictures smaller; the size is the original's."""
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
