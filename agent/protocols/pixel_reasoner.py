"""The protocol of Pixel-Reasoner."""

from dataclasses import dataclass
from typing import Any, ClassVar

from visreplay.agent.protocols.base import ToolProtocol
from visreplay.agent.protocols.calls import FoundCalls
from visreplay.agent.protocols.crops import crop_observation
from visreplay.agent.protocols.parsing import arguments_of, numbered, unknown_tool
from visreplay.agent.protocols.tool_schemas import Signature, box, signature
from visreplay.agent.protocols.turns import ParsedTurn
from visreplay.agent.state import Observation, Scene, ToolCall
from visreplay.tools import Box, ToolError, parse_box, zoom
from visreplay.tools.video import frames_line


@dataclass(frozen=True)
class PixelReasonerProtocol(ToolProtocol):
    r"""The protocol of Pixel-Reasoner: crops of any image so far, frames of the video's overview.

    A call counts only at the very end of a turn; a turn without one ends with the answer in
    \boxed{}. Boxes are relative (0 to 1) if all four values are below 1, and otherwise in pixels of
    the image as the model sees it. A crop is wider than its box by a tenth of the image on every
    side. `target_image` counts from 1: the images of the question, then all observations. For a
    video it counts the frames of the overview until there is an observation, then observations
    alone.
    """

    name: ClassVar[str] = "pixel-reasoner"
    unused: ClassVar[tuple[str, ...]] = ("calls",)

    CROP: ClassVar[str] = "crop_image_normalized"
    SELECT: ClassVar[str] = "select_frames"

    own_tools: ClassVar[tuple[Signature, ...]] = (
        signature(
            CROP,
            "Enlarge a region of an image.",
            {
                "bbox_2d": box("The region as [x1, y1, x2, y2], each from 0.0 to 1.0."),
                "target_image": {
                    "type": "number",
                    "description": "Which image: 1 is the first one.",
                },
            },
        ),
        signature(
            SELECT,
            "Look at frames of the clip one by one.",
            {
                "target_frames": {
                    "type": "array",
                    "items": {"type": "integer"},
                    "description": "Numbers of frames, from 1 to 16; at most 8 of them.",
                }
            },
        ),
    )

    def _read(self, thought: str, rest: str, calls: FoundCalls) -> ParsedTurn:
        # The end of the turn counts, in a thought too: nothing here depends on <think>.
        written = rest if rest.strip() else thought
        if written is thought:
            calls = self._find(thought)
        if calls.closing is not None:
            before = written[: calls.attempts[-1].start].strip()
            return ParsedTurn(
                thought if written is rest and thought else before, calls.chosen("last")
            )
        turn = ParsedTurn.boxed(thought or rest.strip(), written)
        if turn.answer is None and calls.counted:
            calls.chosen("last")  # raises what is wrong with the call itself
            raise ToolError("A call counts at the very end of a turn: write nothing after it.")
        return turn

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Run `crop_image_normalized` or `select_frames`."""
        if call["name"] == self.CROP:
            bbox, target = arguments_of(call, ("bbox_2d", "target_image"))
            return self._crop(bbox, target, scene)
        if call["name"] == self.SELECT:
            (targets,) = arguments_of(call, ("target_frames",))
            return self._select(targets, scene)
        raise unknown_tool(call["name"], self.CROP, self.SELECT)

    def _crop(self, bbox: Any, target: Any, scene: Scene) -> Observation:
        candidates = scene.all_images
        if scene.overview is not None and not candidates:
            candidates = tuple(scene.overview["frames"])
        reference = candidates[numbered(target, "target_image", "images", 1, len(candidates))]
        picture = self.store.get(reference)
        extent = (1.0, 1.0) if _all_below_one(bbox) else self._extent(picture.size)
        parse_box(bbox, extent, picture.size, max_aspect=self.recipe.crops.max_aspect)
        padded = self._padded(bbox, extent, picture.size)
        min_side = self.recipe.crops.min_side
        if min(padded.width, padded.height) < min_side:
            raise ToolError(
                f"the crop is {padded.width} x {padded.height} px; each side must have at least "
                f"{min_side} px"
            )
        region = zoom(picture, padded, grid=self.crop_grid)
        return crop_observation(reference, picture, padded, region, self.store)

    def _padded(self, bbox: list[float], extent: tuple[float, float], size: tuple[int, int]) -> Box:
        """Add the margins to a box, within the image."""

        def edge(at: int, margin: float) -> int:
            share = float(bbox[at]) / extent[at % 2] + margin
            return round(min(max(share, 0.0), 1.0) * size[at % 2])

        near, far = -self.recipe.crops.padding, self.recipe.crops.padding
        return Box(edge(0, near), edge(1, near), edge(2, far), edge(3, far))

    def _select(self, targets: Any, scene: Scene) -> Observation:
        video = scene.overview
        if video is None:
            raise ToolError("there is no video to select frames of; the question is about an image")
        most = self.recipe.frames.most
        if not isinstance(targets, list) or not 1 <= len(targets) <= most:
            raise ToolError(
                f"target_frames is a list of 1 to {most} numbers of frames"
                + (f", not of {len(targets)}" if isinstance(targets, list) else "")
            )
        count = len(video["frames"])
        indices = [numbered(target, "target_frames", "frames", 1, count) for target in targets]
        times = [video["times"][index] for index in indices]
        return {
            "text": frames_line(times),
            "images": [video["frames"][index] for index in indices],
            "times": times,
        }


def _all_below_one(bbox: object) -> bool:
    """Tell whether a box is relative. A value of exactly 1 means pixels, as in the training."""
    return isinstance(bbox, list) and all(
        isinstance(value, int | float) and value < 1 for value in bbox
    )
