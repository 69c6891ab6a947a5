"""The protocol of DeepEyes-7B."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from visreplay.agent.protocols.base import ParsedTurn, ToolProtocol
from visreplay.agent.protocols.parsing import arguments_of, unknown_tool
from visreplay.agent.protocols.tool_schemas import Signature, box, describe_tools, signature
from visreplay.agent.state import Observation, Scene, ToolCall


@dataclass(frozen=True)
class DeepEyesProtocol(ToolProtocol):
    """The protocol of DeepEyes-7B: `image_zoom_in_tool` on the first image, boxes in pixels.

    If a turn has several calls, the last one counts. The sources disagree on whether boxes are in
    pixels of the original image or of the resized one that the model saw; `coordinates` chooses.
    """

    coordinates: Literal["original", "resized"] = "original"

    name: ClassVar[str] = "deepeyes"
    checkpoints: ClassVar[tuple[str, ...]] = ("deepeyes",)
    stop_strings: ClassVar[tuple[str, ...]] = ("</tool_call>",)
    max_steps: ClassVar[int] = 6
    videos: ClassVar[bool] = False

    MIN_SIDE: ClassVar[int] = 30
    MAX_ASPECT: ClassVar[float] = 100.0
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
    default_system_prompt: ClassVar[str] = describe_tools(
        "You answer questions about an image, and you can look closer with a tool.", *own_tools
    )
    default_user_suffix: ClassVar[str] = (
        "\nFirst think, then call the tool if a closer look helps, or answer. Write "
        "<think>...</think> followed by <tool_call>...</tool_call> or <answer>...</answer>."
    )

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Run `image_zoom_in_tool` on the first image."""
        if call["name"] != self.TOOL:
            raise unknown_tool(call["name"], self.TOOL)
        (bbox,) = arguments_of(call, ("bbox_2d",), ("label",))
        reference = scene.images[0]
        extent = None
        if self.coordinates == "resized":
            extent = self.grid.fit(self.store.get(reference).size)
        return self._zoom(
            reference,
            bbox,
            extent,
            self.grid,
            scene,
            min_side=self.MIN_SIDE,
            max_aspect=self.MAX_ASPECT,
        )

    def _read_untagged(self, thought: str, rest: str) -> ParsedTurn:
        # Both of the model's own evaluations take a turn without a call as the answer.
        return ParsedTurn.free(thought, rest)
