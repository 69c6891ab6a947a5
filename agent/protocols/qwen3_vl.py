"""The protocol of Qwen3-VL, as Qwen-Agent runs it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.messages import Part, text
from visreplay.agent.protocols.base import ParsedTurn, ToolProtocol
from visreplay.agent.protocols.crops import crop_observation
from visreplay.agent.protocols.parsing import arguments_of, numbered, parse_calls, unknown_tool
from visreplay.agent.protocols.tool_schemas import Signature, box, describe_tools, signature
from visreplay.agent.state import Observation, Scene, ToolCall
from visreplay.tools import Box, TokenGrid, parse_box, zoom


@dataclass(frozen=True)
class Qwen3VLProtocol(ToolProtocol):
    """The protocol of Qwen3-VL: `image_zoom_in_tool` on the question's images.

    Boxes are relative, from 0 to 1000. All calls of a turn are run, and a turn without one is the
    answer. A box whose shorter side is less than a visual token is widened around its centre.
    """

    name: ClassVar[str] = "qwen3-vl"
    checkpoints: ClassVar[tuple[str, ...]] = ("qwen3vl",)
    separator: ClassVar[str] = "\n"

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
    default_system_prompt: ClassVar[str] = describe_tools(
        "You answer questions about images, and you can look closer with a tool.", *own_tools
    )

    @property
    def frame_grid(self) -> TokenGrid:
        """A frame gets at most 768 tokens."""
        return self._tokens(0, 768)

    @property
    def crop_grid(self) -> TokenGrid:
        """A crop gets at least 256 tokens."""
        return self._tokens(256, 16_384)

    def _read(self, thought: str, rest: str) -> ParsedTurn:
        calls = parse_calls(rest)
        return ParsedTurn(thought, calls) if calls else ParsedTurn.free(thought, rest)

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Run `image_zoom_in_tool`."""
        if call["name"] != self.TOOL:
            raise unknown_tool(call["name"], self.TOOL)
        bbox, _, index = arguments_of(call, ("bbox_2d", "label", "img_idx"))
        images = scene.images
        reference = images[numbered(index, "img_idx", "images of the question", 0, len(images))]
        picture = self.store.get(reference)
        wide = _widened(parse_box(bbox, self.EXTENT, picture.size), self.grid.factor, picture.size)
        region = zoom(picture, wide, grid=self.crop_grid)
        return crop_observation(reference, picture, wide, region, self.store)

    def framed(self, parts: Sequence[Part]) -> list[Part]:
        """Put the result between tags on lines of their own."""
        return [text("<tool_response>\n"), *parts, text("\n</tool_response>")]

    def error_parts(self, error: str) -> list[Part]:
        """Put the error between the same tags."""
        return [text(f"<tool_response>\nError: {error}\n</tool_response>")]


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
