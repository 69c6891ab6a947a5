"""The protocol of Video-R1-7B."""

from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.protocols.base import ToolProtocol
from visreplay.agent.protocols.parsing import unknown_tool
from visreplay.agent.state import Observation, Scene, ToolCall
from visreplay.tools import TokenGrid


@dataclass(frozen=True)
class VideoR1Protocol(ToolProtocol):
    """The protocol of Video-R1-7B: no tools; 16 uniform frames, a thought, then the answer."""

    name: ClassVar[str] = "video-r1"
    checkpoints: ClassVar[tuple[str, ...]] = ("videor1",)
    named_calls: ClassVar[bool] = False
    max_steps: ClassVar[int] = 1

    FRAME_PIXELS: ClassVar[int] = 200_704

    default_user_suffix: ClassVar[str] = (
        "\nThink about the question step by step between <think> and </think>, then give the "
        "final answer between <answer> and </answer>."
    )

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Refuse: the protocol has no tools."""
        raise unknown_tool(call["name"])

    @property
    def frame_grid(self) -> TokenGrid:
        """The pixel budget of a frame, as in the policy's training."""
        return self.grid.capped(self.FRAME_PIXELS)
