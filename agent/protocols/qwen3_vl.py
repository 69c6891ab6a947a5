"""The protocol of Qwen3-VL, as Qwen-Agent runs it."""

import math
from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.protocols.base import ToolProtocol
from visreplay.agent.protocols.calls import FoundCalls
from visreplay.agent.protocols.crops import crop_observation
from visreplay.agent.protocols.parsing import arguments_of, numbered, unknown_tool
from visreplay.agent.protocols.tool_schemas import Signature, box, signature
from visreplay.agent.protocols.turns import ParsedTurn
from visreplay.agent.state import Observation, Scene, ToolCall
from visreplay.tools import Box, parse_box, zoom
from visreplay.tools.box_units import refuse_shares


@dataclass(frozen=True)
class Qwen3VLProtocol(ToolProtocol):
    """The protocol of Qwen3-VL: `image_zoom_in_tool` on any image so far.

    Boxes are relative, from 0 to 1000. `img_idx` counts the question's images from 0, then those of
    all observations. All calls of a turn are run, and a turn without one is the answer. A box whose
    shorter side is less than a visual token is widened around its centre.
    """

    name: ClassVar[str] = "qwen3-vl"
    unused: ClassVar[tuple[str, ...]] = (
        "crops.coordinates",
        "crops.padding",
        "frames.most",
        "texts.frames",
    )

    EXTENT: ClassVar[tuple[float, float]] = (1000.0, 1000.0)
    TOOL: ClassVar[str] = "image_zoom_in_tool"

    own_tools: ClassVar[tuple[Signature, ...]] = (
        signature(
            TOOL,
            "Enlarge a region of an image.",
            {
                "bbox_2d": box(
                    "The region as [x1, y1, x2, y2], (x1, y1) its top left and (x2, y2) its bottom "
                    "right corner, each from 0 to 1000."
                ),
                "label": {"type": "string", "description": "What the region shows."},
                "img_idx": {"type": "number", "description": "Which image: 0 is the first one."},
            },
        ),
    )

    def _read(self, thought: str, rest: str, calls: FoundCalls) -> ParsedTurn:
        if calls.found:
            return ParsedTurn(thought, calls.chosen(self.recipe.calls))
        return self._free(thought, rest)

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Run `image_zoom_in_tool`."""
        if call["name"] != self.TOOL:
            raise unknown_tool(call["name"], self.TOOL)
        bbox, _, index = arguments_of(call, ("bbox_2d", "label", "img_idx"))
        images = scene.all_images
        reference = images[numbered(index, "img_idx", "images", 0, len(images))]
        refuse_shares(bbox, self.EXTENT)
        picture = self.store.get(reference)
        rules = self.recipe.crops
        region = parse_box(
            bbox, self.EXTENT, picture.size, min_side=rules.min_side, max_aspect=rules.max_aspect
        )
        wide = _widened(region, self.grid.factor, picture.size)
        crop = zoom(picture, wide, grid=self.crop_grid)
        return crop_observation(reference, picture, wide, crop, self.store)


def _widened(region: Box, side: int, size: tuple[int, int]) -> Box:
    """Grow a small box around its centre until its shorter side is so many pixels long.

    Near the edge of the image there may be no room for that; the box then stays as it is.
    """
    shortest = min(region.width, region.height)
    if shortest >= side:
        return region
    half_width = math.ceil(region.width * side / shortest / 2)
    half_height = math.ceil(region.height * side / shortest / 2)
    x, y = (region.left + region.right) / 2, (region.top + region.bottom) / 2
    grown = Box(
        max(math.floor(x - half_width), 0),
        max(math.floor(y - half_height), 0),
        min(math.ceil(x + half_width), size[0]),
        min(math.ceil(y + half_height), size[1]),
    )
    return grown if min(grown.width, grown.height) > side else region
