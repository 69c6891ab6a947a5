"""The protocol of DeepEyes-7B."""

from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.protocols.base import ToolProtocol
from visreplay.agent.protocols.parsing import arguments_of, unknown_tool
from visreplay.agent.protocols.tool_schemas import Signature, box, signature
from visreplay.agent.protocols.turns import ParsedTurn
from visreplay.agent.state import Observation, Scene, ToolCall
from visreplay.tools.box_units import refuse_shares


@dataclass(frozen=True)
class DeepEyesProtocol(ToolProtocol):
    """The protocol of DeepEyes-7B: `image_zoom_in_tool` on the first image, boxes in pixels.

    The sources disagree on whether boxes are in pixels of the original image or of the resized one
    that the model saw; the recipe's `crops.coordinates` chooses.
    """

    name: ClassVar[str] = "deepeyes"
    videos: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = ("crops.padding", "frames", "texts.frames")

    TOOL: ClassVar[str] = "image_zoom_in_tool"

    own_tools: ClassVar[tuple[Signature, ...]] = (
        signature(
            TOOL,
            "Enlarge a region of the image.",
            {
                "bbox_2d": box(
                    "The region as [x1, y1, x2, y2] in pixels, (x1, y1) its top left and (x2, y2) "
                    "its bottom right corner."
                ),
                "label": {"type": "string", "description": "What the region shows."},
            },
            optional=("label",),
        ),
    )

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Run `image_zoom_in_tool` on the first image."""
        if call["name"] != self.TOOL:
            raise unknown_tool(call["name"], self.TOOL)
        (bbox,) = arguments_of(call, ("bbox_2d",), ("label",))
        reference = scene.images[0]
        extent = self._extent(self.store.get(reference).size)
        refuse_shares(bbox, extent)
        return self._zoom(reference, bbox, extent, self.crop_grid, scene)

    def _read_untagged(self, thought: str, rest: str) -> ParsedTurn:
        # Both of the model's own evaluations take a turn without a call as the answer.
        return self._free(thought, rest)
