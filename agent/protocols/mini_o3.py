"""The protocol of Mini-o3."""

from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.messages import Part, image, text
from visreplay.agent.protocols.base import ObservationPosition, ParsedTurn, ToolProtocol
from visreplay.agent.protocols.parsing import arguments_of, bodies, parse_json, unknown_tool
from visreplay.agent.state import Observation, Scene, ToolCall
from visreplay.tools import TokenGrid, ToolError, zoom
from visreplay.tools.types import preview


@dataclass(frozen=True)
class MiniO3Protocol(ToolProtocol):
    """The protocol of Mini-o3: one grounding a turn, on the original image or any observation.

    Boxes are relative (0 to 1) to the image that `source` names. Actions are counted from 0;
    observations from 1, since `observation_0` is the original image itself.

    Attributes:
        observation_text: Text around an observation: {action} and {observation} are its numbers,
            {image} is its place.
        error_text: Text about a grounding that failed, with {error}.
    """

    observation_text: str = (
        "Action {action} shows the region (Observation {observation}):\n{image}.\nGo on thinking "
        "inside <think> and </think>. You may ground again, in the original image or in any "
        "observation, with <grounding> and </grounding>; once you are sure, write the final answer "
        "inside <answer> and </answer>."
    )
    error_text: str = (
        "ERROR in the grounding: {error}\nCorrect it, and go on thinking inside <think> and "
        "</think>."
    )

    name: ClassVar[str] = "mini-o3"
    checkpoints: ClassVar[tuple[str, ...]] = ("minio3",)
    stop_strings: ClassVar[tuple[str, ...]] = ("</grounding>",)
    named_calls: ClassVar[bool] = False
    max_steps: ClassVar[int] = 12
    videos: ClassVar[bool] = False

    MAX_ASPECT: ClassVar[float] = 200.0
    CALL: ClassVar[str] = "grounding"

    default_system_prompt: ClassVar[str] = (
        "You answer questions about an image. Think inside <think> and </think>. To look closer "
        'at a region, write <grounding>{"bbox_2d": [x0, y0, x1, y1], "source": "original_image"}'
        "</grounding>: (x0, y0) is its top left and (x1, y1) its bottom right corner, where the "
        "image is 1.0 wide and 1.0 high, and the source is original_image or observation_i. Once "
        "you are sure, write the final answer inside <answer> and </answer>."
    )

    @property
    def picture_grid(self) -> TokenGrid:
        """The budget of every image, the question's too: 40,000 to 2,000,000 pixels."""
        return self._budget(40_000, 2_000_000)

    def media_parts(self, images: list[str], video: str | None) -> list[Part]:
        """Fit the images to the budget; crops are cut from the images as they came."""
        fitted = [zoom(self.store.get(reference), grid=self.picture_grid) for reference in images]
        return [image(self.store.put(picture)) for picture in fitted]

    def _read(self, thought: str, rest: str) -> ParsedTurn:
        # Generation stops at a grounding: it counts although the thought is not closed.
        if not rest and thought.endswith("</grounding>"):
            thought, tag, last = thought.rpartition("<grounding>")
            thought, rest = thought.strip(), tag + last
        answer_at, call_at = rest.rfind("<answer>"), rest.rfind("<grounding>")
        if answer_at > call_at:
            return ParsedTurn.tagged(thought, rest)
        if call_at < 0:
            return ParsedTurn(thought)
        (body,) = bodies(rest[call_at:], "grounding")
        arguments = parse_json(body, "grounding")
        if not isinstance(arguments, dict):
            raise ToolError('A grounding is one JSON object {"bbox_2d": [...], "source": string}.')
        return ParsedTurn(thought, ({"name": self.CALL, "arguments": arguments},))

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Crop the image that the grounding names."""
        if call["name"] != self.CALL:
            raise unknown_tool(call["name"], self.CALL)
        bbox, source = arguments_of(call, ("bbox_2d", "source"))
        return self._zoom(
            self._resolve(source, scene),
            bbox,
            (1.0, 1.0),
            self.picture_grid,
            scene,
            max_aspect=self.MAX_ASPECT,
        )

    def _resolve(self, source: object, scene: Scene) -> str:
        """Find the reference of the image that a source names."""
        crops = [observation["images"][0] for observation in scene.observations]
        known = {"original_image": scene.images[0], "observation_0": scene.images[0]}
        known |= {f"observation_{number}": crop for number, crop in enumerate(crops, 1)}
        if not isinstance(source, str) or source not in known:
            names = ["original_image", *(f"observation_{n}" for n in range(1, len(crops) + 1))]
            raise ToolError(f"source is {preview(source)}; there are {', '.join(names)}")
        return known[source]

    def observation_parts(
        self, observation: Observation, position: ObservationPosition = ObservationPosition()
    ) -> list[Part]:
        """Show an observation with its own number and the number of its action."""
        (reference,) = observation["images"]
        framed = self.observation_text.replace("{action}", str(position.step))
        framed = framed.replace("{observation}", str(position.observations + 1))
        before, _, after = framed.partition("{image}")
        return [text(before), image(reference), text(after)]

    def error_parts(self, error: str) -> list[Part]:
        """Show an error in its frame."""
        return [text(self.error_text.replace("{error}", error))]
