"""The loop's two moves, as pure functions of the state: after a policy turn, and after a call.

`graph` wires them into LangGraph for one episode; `apply` lets other drivers (many episodes in
lockstep, say) use them without a graph.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from visreplay.agent.episode.limits import Limits
from visreplay.agent.episode.trajectory import StopReason
from visreplay.agent.messages import ImagePart, VideoPart, append_messages
from visreplay.agent.policy.replay_policy import PolicyTurn
from visreplay.agent.protocols import ToolProtocol
from visreplay.agent.state import EpisodeState, Step, ToolCall, ToolUse, merge_steps
from visreplay.tools import ToolError


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
            "tool_calls": [_asked(call) for call in read.calls],
            "error": read.error,
            "replay": turn.replay,
            "seconds": turn.seconds,
        }
        cut = turn.finish_reason == "length"
        answer = None if cut and read.open_ended else read.answer
        reason: StopReason | None = None
        if answer is not None:
            reason = StopReason.ANSWERED
        elif cut:
            reason = StopReason.MAX_TOKENS
        elif not read.calls and read.error is None:
            reason = StopReason.NO_ANSWER
        elif step["index"] + 1 >= (self.limits.max_steps or self.protocol.max_steps):
            reason = StopReason.MAX_STEPS
        elif self._repeats(state, step):
            reason = StopReason.REPEATED_CALL
        return {
            "messages": [turn.message],
            "steps": [step],
            "answer": answer,
            "stop_reason": reason and reason.value,
        }

    def after_call(self, state: EpisodeState) -> dict[str, Any]:
        """Run the last step's calls in order, or tell the policy what was wrong with its turn.

        Returns:
            The state's update: the message of what came of them and the completed step.
        """
        step = state["steps"][-1].copy()
        uses = step["tool_calls"] = [use.copy() for use in step["tool_calls"]]
        images = 0
        for use in uses:
            call: ToolCall = {"name": use["name"], "arguments": use["arguments"]}
            began = time.perf_counter()
            try:
                use["observation"] = self.protocol.run(call, state)
            except ToolError as error:
                use["error"] = str(error)
            use["seconds"] = time.perf_counter() - began
            if use["observation"] is None:
                continue
            images += len(use["observation"]["images"])
            if not self._fits(state, images):
                return {"steps": [step], "stop_reason": StopReason.MAX_IMAGES.value}
        return {"messages": [self.protocol.show(step, state)], "steps": [step]}

    @staticmethod
    def next(state: EpisodeState) -> Literal["go on", "end"]:
        """Whether the episode goes on after a move."""
        return "end" if state["stop_reason"] else "go on"

    def _repeats(self, state: EpisodeState, step: Step) -> bool:
        """Whether one of the step's calls was made as often as it may be."""
        made = Counter(map(_written, [use for s in state["steps"] for use in s["tool_calls"]]))
        made.update(map(_written, step["tool_calls"]))
        return any(made[_written(use)] > self.limits.max_repeats for use in step["tool_calls"])

    def _fits(self, state: EpisodeState, images: int) -> bool:
        """Whether so many more images may be shown."""
        clips = [part for part in _pictures(state) if part["type"] == "video"]
        pictures = len(_pictures(state)) - len(clips) + images
        frames = sum(len(clip["frames"]) for clip in clips)
        most = self.protocol.max_images
        return pictures + frames <= self.limits.max_images and (
            most is None or pictures + len(clips) <= most
        )


def _asked(call: ToolCall) -> ToolUse:
    """A call that was not run yet."""
    name, arguments = call["name"], call["arguments"]
    return {"name": name, "arguments": arguments, "observation": None, "error": None}


def _written(use: ToolUse) -> str:
    """A call as one text."""
    return json.dumps([use["name"], use["arguments"]], sort_keys=True)


def _pictures(state: EpisodeState) -> list[ImagePart | VideoPart]:
    """Images and clips in the conversation so far."""
    parts = [part for message in state["messages"] for part in message["content"]]
    return [part for part in parts if part["type"] != "text"]


def apply(state: EpisodeState, update: Mapping[str, Any]) -> EpisodeState:
    """The state after an update: what LangGraph's reducers do, for a loop without a graph."""
    merged: dict[str, Any] = {**state, **update}
    merged["messages"] = append_messages(state["messages"], update.get("messages", []))
    merged["steps"] = merge_steps(state["steps"], update.get("steps", []))
    return merged  # type: ignore[return-value]


def completed(state: EpisodeState, earlier: EpisodeState) -> list[Step]:
    """The steps that came to their end between two states of a stream.

    A step ends when all its calls have an observation or an error, or with the episode.
    """

    def ended(at: EpisodeState) -> int:
        steps = at["steps"]
        open_call = any(
            use["observation"] is None and use["error"] is None
            for step in steps[-1:]
            for use in step["tool_calls"]
        )
        return len(steps) - (open_call and not at["stop_reason"])

    return state["steps"][ended(earlier) : ended(state)]
