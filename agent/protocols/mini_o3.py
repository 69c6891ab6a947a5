"""The protocol of Mini-o3."""

from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.protocols.base import ToolProtocol
from visreplay.agent.protocols.call_syntax import CallSyntax
from visreplay.agent.protocols.parsing import arguments_of, unknown_tool
from visreplay.agent.state import Observation, Scene, ToolCall
from visreplay.tools import ToolError
from visreplay.tools.box_units import refuse_pixels
from visreplay.tools.types import preview


@dataclass(frozen=True)
class MiniO3Protocol(ToolProtocol):
    """The protocol of Mini-o3: one grounding a turn, on the original image or any observation.

    Boxes are relative (0 to 1) to the image that `source` names. Actions are counted from 0;
    observations from 1, since `observation_0` is the original image itself.
    """

    name: ClassVar[str] = "mini-o3"
    named_calls: ClassVar[bool] = False
    videos: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = (
        "calls",
        "crops.coordinates",
        "crops.padding",
        "frames",
        "texts.tools",
        "texts.frames",
        "texts.separator",
    )

    CALL: ClassVar[str] = "grounding"
    call_syntax: ClassVar[CallSyntax] = CallSyntax(
        CALL, '{"bbox_2d": [...], "source": string}', (("bbox_2d",),), name=CALL
    )

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Crop the image that the grounding names."""
        if call["name"] != self.CALL:
            raise unknown_tool(call["name"], self.CALL)
        bbox, source = arguments_of(call, ("bbox_2d", "source"))
        reference = self._resolve(source, scene)
        refuse_pixels(bbox)
        return self._zoom(reference, bbox, (1.0, 1.0), self.crop_grid, scene)

    def _resolve(self, source: object, scene: Scene) -> str:
        """Find the reference of the image that a source names."""
        crops = [observation["images"][0] for observation in scene.observations]
        known = {"original_image": scene.images[0], "observation_0": scene.images[0]}
        known |= {f"observation_{number}": crop for number, crop in enumerate(crops, 1)}
        if not isinstance(source, str) or source not in known:
            names = ["original_image", *(f"observation_{n}" for n in range(1, len(crops) + 1))]
            raise ToolError(f"source is {preview(source)}; there are {', '.join(names)}")
        return known[source]
