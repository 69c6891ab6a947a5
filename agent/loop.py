"""The loop's two moves, as pure functions of the state: after a policy turn, and after a call.

`graph` wires them into LangGraph for one episode; `apply` lets other drivers (many episodes in
lockstep, say) use them without a graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from visreplay.agent.policy import PolicyTurn
from visreplay.agent.protocols import ToolProtocol
from visreplay.agent.state import (
    EpisodeState,
    Step,
    append_messages,
    merge_steps,
)
from visreplay.agent.trajectory import StopReason
from visreplay.tools import ToolError


@dataclass(frozen=True, slots=True)
class Limits:
    """Where an episode is stopped whatever the policy does.

    Attributes:
        max_steps: Policy turns; the protocol's own limit when None.
        max_images: Images and frames that an episode may show, the question's included.
        max_repeats: How often one and the same call may be made.
    """

    max_steps: int | None = None
    max_images: int = 64
    max_repeats: int = 2

    def __post_init__(self) -> None:
        """Refuse limits below one."""
        for name, value in (
            ("max_steps", self.max_steps),
            ("max_images", self.max_images),
            ("max_repeats", self.max_repeats),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class Loop:
    """What happens between a policy's turns, in one protocol under some limits."""

    protocol: ToolProtocol
    limits: Limits = Limits()

    def start(
        self, question: str, *, images: list[str], video: str | None = None, seed: int = 0
    ) -> EpisodeState:
        """The state before the first turn.

        Raises:
            ToolError: If the media do not suit the protocol or cannot be read.
        """
        return {
            "question": question,
            "images": images,
            "video": video,
            "seed": seed,
            "messages": self.protocol.open(question, images, video),
            "steps": [],
            "answer": None,
            "stop_reason": None,
        }

    def after_turn(self, state: EpisodeState, turn: PolicyTurn) -> dict[str, Any]:
        """Read a policy turn and decide whether the episode ends with it.

        Returns:
            The state's update: the assistant message, the step, and perhaps answer and reason.
        """
        read = self.protocol.read(turn.text)
        step: Step = {
            "index": len(state["steps"]),
            "text": turn.text,
            "thought": read.thought,
            "tool_call": read.call,
            "observation": None,
            "error": read.error,
            "replay": turn.replay,
            "seconds": turn.seconds,
        }
        reason: StopReason | None = None
        if read.answer is not None:
            reason = StopReason.ANSWERED
        elif turn.finish_reason == "length":
            reason = StopReason.MAX_TOKENS
        elif read.call is None and read.error is None:
            reason = StopReason.NO_ANSWER
        elif step["index"] + 1 >= (self.limits.max_steps or self.protocol.max_steps):
            reason = StopReason.MAX_STEPS
        elif read.call is not None and self._repeats(state, step) >= self.limits.max_repeats:
            reason = StopReason.REPEATED_CALL
        return {
            "messages": [turn.message],
            "steps": [step],
            "answer": read.answer,
            "stop_reason": reason and reason.value,
        }

    def after_call(self, state: EpisodeState) -> dict[str, Any]:
        """Run the last step's call, or tell the policy what was wrong with it.

        Returns:
            The state's update: the observation's message and the completed step.
        """
        step = state["steps"][-1].copy()
        if step["tool_call"] is not None:
            try:
                step["observation"] = self.protocol.run(step["tool_call"], state)
            except ToolError as error:
                step["error"] = str(error)
        if step["observation"] is None:
            return {"messages": [self.protocol.show_error(step["error"] or "")], "steps": [step]}
        if _shown(state) + len(step["observation"]["images"]) > self.limits.max_images:
            return {"steps": [step], "stop_reason": StopReason.MAX_IMAGES.value}
        return {"messages": [self.protocol.show(step["observation"])], "steps": [step]}

    @staticmethod
    def next(state: EpisodeState) -> Literal["go on", "end"]:
        """Whether the episode goes on after a move."""
        return "end" if state["stop_reason"] else "go on"

    def _repeats(self, state: EpisodeState, step: Step) -> int:
        return sum(earlier["tool_call"] == step["tool_call"] for earlier in state["steps"])


def _shown(state: EpisodeState) -> int:
    """Images and frames in the conversation so far."""
    parts = [part for message in state["messages"] for part in message["content"]]
    return sum(
        len(part["frames"]) if part["type"] == "video" else 1
        for part in parts
        if part["type"] != "text"
    )


def apply(state: EpisodeState, update: Mapping[str, Any]) -> EpisodeState:
    """The state after an update: what LangGraph's reducers do, for a loop without a graph."""
    merged: dict[str, Any] = {**state, **update}
    merged["messages"] = append_messages(state["messages"], update.get("messages", []))
    merged["steps"] = merge_steps(state["steps"], update.get("steps", []))
    return merged  # type: ignore[return-value]


def completed(state: EpisodeState, earlier: EpisodeState) -> list[Step]:
    """The steps that came to their end between two states of a stream.

    A step ends with its observation or error, or with the episode.
    """

    def ended(at: EpisodeState) -> int:
        steps = at["steps"]
        open_call = bool(steps) and not (
            steps[-1]["observation"] or steps[-1]["error"] or at["stop_reason"]
        )
        return len(steps) - open_call

    return state["steps"][ended(earlier) : ended(state)]
