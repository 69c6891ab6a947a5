"""The protocol of the pair that ships with the package."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.protocols.base import ToolProtocol
from visreplay.agent.protocols.parsing import arguments_of, unknown_tool
from visreplay.agent.protocols.tool_schemas import Signature, box, signature
from visreplay.agent.state import Observation, Scene, ToolCall
from visreplay.tools import ToolError, sample_frames


@dataclass(frozen=True)
class EmbeddedProtocol(ToolProtocol):
    """The protocol of the pair that ships with the package.

    Boxes are in cells of an 8 x 8 grid over the image: a cell is a visual token of the overview.
    `zoom` always looks at the original image. `sample_frames` shows two frames around a moment of
    the video, in seconds.
    """

    name: ClassVar[str] = "embedded"
    call_break: ClassVar[str] = ""
    unused: ClassVar[tuple[str, ...]] = (
        "crops.coordinates",
        "crops.padding",
        "frames.most",
        "texts.tools",
    )

    CELLS: ClassVar[float] = 8.0
    FRAMES: ClassVar[int] = 2
    WINDOW_SECONDS: ClassVar[float] = 0.25

    own_tools: ClassVar[tuple[Signature, ...]] = (
        signature(
            "zoom",
            "Enlarge a region of the image.",
            {
                "label": {"type": "string", "description": "What the region shows."},
                "bbox_2d": box("The region as [x1, y1, x2, y2] in cells of an 8 x 8 grid."),
            },
            optional=("label",),
        ),
        signature(
            "sample_frames",
            "Show two frames of the video.",
            {"around": {"type": "number", "description": "Around this time in seconds."}},
        ),
    )

    def offer(self, tools: Sequence[Signature], system: str) -> str:
        """Offer nothing: the pair knows its two tools, and has never read a signature."""
        return system

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Run `zoom` or `sample_frames`."""
        if call["name"] == "zoom":
            (bbox,) = arguments_of(call, ("bbox_2d",), ("label",))
            if not scene.images:
                raise ToolError("there is no image to zoom into; the question is about a video")
            extent = (self.CELLS, self.CELLS)
            return self._zoom(scene.images[0], bbox, extent, self.crop_grid, scene)
        if call["name"] == "sample_frames":
            (around,) = arguments_of(call, ("around",))
            if scene.video is None:
                raise ToolError("there is no video to sample; the question is about an image")
            return self._frames(
                sample_frames(
                    scene.video, count=self.FRAMES, around=around, window=self.WINDOW_SECONDS
                )
            )
        raise unknown_tool(call["name"], "zoom", "sample_frames")
