"""Policies that think and then box their answer: MM-Eureka, VL-Rethinker, MMR1-Math."""

from dataclasses import dataclass
from typing import ClassVar

from visreplay.agent.protocols.base import ParsedTurn, ToolProtocol
from visreplay.agent.protocols.parsing import unknown_tool
from visreplay.agent.state import EpisodeState, Observation, ToolCall


@dataclass(frozen=True)
class BoxedProtocol(ToolProtocol):
    r"""Policies of mathematics: no tools; thinking, with or without tags, then \boxed{}.

    The last box after the thought counts, or of the thought where nothing else was written.
    """

    name: ClassVar[str] = "boxed"
    spoken_by: ClassVar[tuple[str, ...]] = ("mmeureka", "vlrethinker", "mmr1")
    max_steps: ClassVar[int] = 1

    default_user_suffix: ClassVar[str] = (
        "\nThink about the question step by step between <think> and </think>, then give the "
        "final answer in \\boxed{}."
    )

    def _read(self, thought: str, rest: str) -> ParsedTurn:
        return ParsedTurn.boxed(thought or rest.strip(), rest or thought)

    def run(self, call: ToolCall, state: EpisodeState) -> Observation:
        """Refuse: the dialect has no tools."""
        raise unknown_tool(call["name"])
