"""One self-contained HTML page of a few episodes, pictures included."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from visreplay.agent import Step, ToolUse, Trajectory
from visreplay.tasks.console import replay_line
from visreplay.tools import ImageStore

THUMBNAIL = 896
"""Longest side of a picture on the page, in pixels."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An episode for the page.

    Attributes:
        trajectory: Its record.
        expected: The right answer, if it is known.
    """

    trajectory: Trajectory
    expected: str | None = None


def render_page(episodes: Sequence[Shown], store: ImageStore) -> str:
    """The page. All text from models is escaped; all images come from the store."""
    environment = Environment(
        loader=PackageLoader("visreplay.tasks"), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("episodes.html.j2")
    return template.render(episodes=[_episode(shown, store) for shown in episodes])


def _episode(shown: Shown, store: ImageStore) -> dict[str, Any]:
    trajectory = shown.trajectory
    clips = [
        part
        for message in trajectory.messages
        for part in message["content"]
        if part["type"] == "video"
    ]
    return {
        "trajectory": trajectory,
        "expected": shown.expected,
        "pictures": [
            {
                "source": _data_uri(store.get(reference)),
                "boxes": _boxes(trajectory, store, reference),
            }
            for reference in trajectory.images
        ],
        "frames": [
            {"source": _data_uri(store.get(frame)), "caption": f"{time:.2f} s"}
            for clip in clips
            for frame, time in zip(clip["frames"], clip["times"], strict=True)
        ],
        "steps": [_step(step, store) for step in trajectory.steps],
    }


def _step(step: Step, store: ImageStore) -> dict[str, Any]:
    return {
        "thought": step["thought"],
        "calls": [_use(use, store) for use in step["tool_calls"]],
        "error": step["error"],
        "replay": replay_line(step),
    }


def _use(use: ToolUse, store: ImageStore) -> dict[str, Any]:
    """A call and what came of it."""
    observation = use["observation"]
    images = observation["images"] if observation else []
    times = observation.get("times", []) if observation else []
    captions = [f"{time:.2f} s" for time in times] or [observation["text"] if observation else ""]
    return {
        "text": f"{use['name']} {json.dumps(use['arguments'])}",
        "error": use["error"],
        "images": [
            {"source": _data_uri(store.get(image)), "caption": captions[min(i, len(captions) - 1)]}
            for i, image in enumerate(images)
        ],
    }


def _boxes(trajectory: Trajectory, store: ImageStore, picture: str) -> list[dict[str, float]]:
    """The boxes that were called on an image, in percent of its sides."""
    width, height = store.get(picture).size
    boxes = []
    for step in trajectory.steps:
        for use in step["tool_calls"]:
            seen = use["observation"]
            if seen and "box" in seen and seen.get("source") == picture:
                left, top, right, bottom = seen["box"]
                boxes.append(
                    {
                        "step": step["index"] + 1,
                        "left": 100 * left / width,
                        "top": 100 * top / height,
                        "width": 100 * (right - left) / width,
                        "height": 100 * (bottom - top) / height,
                    }
                )
    return boxes


def _data_uri(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
