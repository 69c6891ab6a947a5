"""Policies that think and then box their answer: MM-Eureka, VL-Rethinker, MMR1-Math."""

from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.protocols.base import ToolProtocol
from visreplay.agent.protocols.calls import FoundCalls
from visreplay.agent.protocols.parsing import unknown_tool
from visreplay.agent.protocols.recipe import NO_TOOLS
from visreplay.agent.protocols.turns import ParsedTurn
from visreplay.agent.state import Observation, Scene, ToolCall
from visreplay.tools import ToolError


@dataclass(frozen=True)
class BoxedProtocol(ToolProtocol):
    r"""The protocol of policies for mathematics: no tools; a thought, then \boxed{}.

    The thought may have tags or not. The last box after it counts; if nothing follows it, the last
    box in it.
    """

    name: ClassVar[str] = "boxed"
    named_calls: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = NO_TOOLS

    def _read(self, thought: str, rest: str, calls: FoundCalls) -> ParsedTurn:
        turn = ParsedTurn.boxed(thought or rest.strip(), rest or thought)
        if turn.answer is None and calls.counted:
            raise ToolError(r"There are no tools to call. Give the answer in \boxed{}.")
        return turn

    def run(self, call: ToolCall, scene: Scene) -> Observation:
        """Refuse: the protocol has no tools."""
        raise unknown_tool(call["name"])
