"""The protocol of Video-R1-7B."""

from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.protocols.base import ToolProtocol
from visreplay.agent.protocols.parsing import unknown_tool
from visreplay.agent.protocols.recipe import NO_TOOLS
from visreplay.agent.state import Observation, Scene, ToolCall


@dataclass(frozen=True)
class VideoR1Protocol(ToolProtocol):
    """The protocol of Video-R1-7B: no tools; frames of a video, a thought, then the answer."""

    name: ClassVar[str] = "video-r1"
    named_calls: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = NO_TOOLS

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Refuse: the protocol has no tools."""
        raise unknown_tool(call["name"])
