"""A plain protocol for any instruction-tuned model that can call tools."""

from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.messages import Part, image, text
from visreplay.agent.protocols.base import ToolProtocol
from visreplay.agent.protocols.parsing import arguments_of, numbered, unknown_tool
from visreplay.agent.protocols.tool_schemas import Schema, Signature, box, signature
from visreplay.agent.protocols.turns import ObservationPosition, ParsedTurn
from visreplay.agent.state import Observation, Scene, ToolCall
from visreplay.tools import ToolError, probe, sample_frames
from visreplay.tools.box_units import refuse_shares

_REGION: dict[str, Schema] = {
    "bbox_2d": box("The region as [x1, y1, x2, y2] in pixels of the image as its size is given."),
    "image": {"type": "integer", "description": "The number of the image; 1 if left out."},
}


@dataclass(frozen=True)
class HermesProtocol(ToolProtocol):
    """A plain protocol: calls between <tool_call> tags; all calls of a turn are run.

    Every image comes with its number, from 1, and its size; boxes are in pixels of that size, on
    any image so far. The answer is between <answer> tags, or is the whole of a turn without a call.
    """

    name: ClassVar[str] = "hermes"
    unused: ClassVar[tuple[str, ...]] = (
        "crops.coordinates",
        "crops.padding",
        "texts.crop",
        "texts.frames",
    )

    own_tools: ClassVar[tuple[Signature, ...]] = (
        signature("zoom", "Enlarge a region of an image.", _REGION, optional=("image",)),
        signature(
            "crop", "Show a region of an image at its own size.", _REGION, optional=("image",)
        ),
        signature(
            "sample_frames",
            "Show frames of the clip.",
            {
                "times": {
                    "type": "array",
                    "items": {"type": "number"},
                    "description": "When, in seconds from the start; at most 8.",
                }
            },
        ),
    )

    def media_parts(self, images: list[str], video: str | None) -> list[Part]:
        """Put each image after its number and size, the video after its length."""
        parts: list[Part] = []
        for number, reference in enumerate(images, 1):
            width, height = self.grid.fit(self.store.get(reference).size)
            parts += [text(f"{_label(number, width, height)}:\n"), image(reference), text("\n")]
        if video is not None:
            parts.append(text(f"Clip ({probe(video).duration:.2f} s):\n"))
            parts += [*super().media_parts([], video), text("\n")]
        return parts

    def _read_untagged(self, thought: str, rest: str) -> ParsedTurn:
        return self._free(thought, rest)

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Run `zoom`, `crop` or `sample_frames`."""
        if call["name"] in ("zoom", "crop"):
            (bbox,) = arguments_of(call, ("bbox_2d",), ("image", "label"))
            images = scene.all_images
            number = call["arguments"].get("image", 1)
            reference = images[numbered(number, "image", "images", 1, len(images))]
            size = self.grid.fit(self.store.get(reference).size)
            refuse_shares(bbox, size)
            grid = self.crop_grid if call["name"] == "zoom" else self.grid
            return self._zoom(reference, bbox, size, grid, scene)
        if call["name"] == "sample_frames":
            (times,) = arguments_of(call, ("times",))
            if scene.video is None:
                raise ToolError("there is no video to sample; the question is about an image")
            if times == [] or times is None:
                raise ToolError("times is empty; give at least one moment in seconds")
            frames = sample_frames(scene.video, times=times, max_frames=self.recipe.frames.most)
            return self._frames(frames)
        raise unknown_tool(call["name"], "zoom", "crop", "sample_frames")

    def content(
        self, observation: Observation, position: ObservationPosition = ObservationPosition()
    ) -> list[Part]:
        """Put each image after its number and size."""
        times = observation.get("times", [])
        parts: list[Part] = []
        for index, reference in enumerate(observation["images"]):
            width, height = self.store.get(reference).size
            moment = f" at {times[index]:.2f} s" if times else ""
            label = _label(position.images + index + 1, width, height)
            line = "\n" if parts else ""
            parts += [text(f"{line}{label}{moment}:\n"), image(reference)]
        return parts


def _label(number: int, width: int, height: int) -> str:
    return f"Image {number} ({width} x {height} px)"
