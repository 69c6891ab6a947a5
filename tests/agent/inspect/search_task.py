"""A task of Inspect on the scenes of the embedded pair, for the command `inspect eval`.

Its samples come from a file of Inspect's own format. As `search`, the solver is left to the command
line. As `search_with_tools`, Inspect's own loop plays: the tool is one of this file, and looks at
the picture of the sample.
"""

import io
from base64 import b64encode

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.model import ChatMessageUser, ContentImage
from inspect_ai.scorer import exact, pattern
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver, use_tools
from inspect_ai.tool import Tool, tool
from inspect_ai.util import store

from visreplay.tools import ImageStore, Media, parse_box
from visreplay.tools import zoom as enlarged


@task
def search(data: str) -> Task:
    return Task(dataset=json_dataset(data), scorer=exact())


@task
def search_with_tools(data: str) -> Task:
    return Task(
        dataset=json_dataset(data),
        solver=[keep_picture(), use_tools(zoom()), generate()],
        scorer=pattern("^<answer>(.+)</answer>$"),
    )


@solver
def keep_picture() -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        (message,) = state.messages
        assert isinstance(message, ChatMessageUser)
        (picture,) = [part for part in message.content if isinstance(part, ContentImage)]
        state.store.set("picture", picture.image)
        return state

    return solve


@tool
def zoom() -> Tool:
    async def execute(label: str, bbox_2d: list[float]) -> ContentImage:
        """Enlarge a region of the picture.

        Args:
            label: What the region shows.
            bbox_2d: The region as [x1, y1, x2, y2] in cells of an 8 x 8 grid.
        """
        picture = Media(ImageStore(), max_uri=2**24).image(store().get("picture"))
        crop = enlarged(picture, parse_box(bbox_2d, (8, 8), picture.size))
        buffer = io.BytesIO()
        crop.save(buffer, "PNG")
        data = b64encode(buffer.getvalue()).decode()
        return ContentImage(image=f"data:image/png;base64,{data}")

    return execute
