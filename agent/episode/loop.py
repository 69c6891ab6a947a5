"""The agent's loop as pure functions of the state: a policy turn, its calls, and when to stop.

Every driver uses it: `graph` (one episode, a checkpoint after every move), `rollouts` (many
episodes in lockstep), `recipes/rollouts.py` (training) and `langchain/graph_server.py`
(`langgraph dev`). A driver brings the policy's turns and nothing else, so the same turns lead to
the same episode in each of them.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from visreplay.agent.episode.limits import Limits
from visreplay.agent.episode.trajectory import StopReason
from visreplay.agent.messages import ImagePart, VideoPart, append_messages
from visreplay.agent.policy.replay_policy import PolicyTurn
from visreplay.agent.protocols import Question, ToolProtocol
from visreplay.agent.protocols.recipe import RecipeLimits
from visreplay.agent.state import EpisodeState, Scene, Step, ToolCall, ToolUse, merge_steps
from visreplay.tools import ToolError


@dataclass(frozen=True)
class Loop:
    """The step between a policy's turns, in one protocol and under some limits."""

    protocol: ToolProtocol
    limits: Limits = Limits()

    @cached_property
    def bounds(self) -> RecipeLimits:
        """The limits that hold: the caller's, and the recipe's where the caller has none."""
        given = {name: value for name, value in asdict(self.limits).items() if value is not None}
        return replace(self.protocol.recipe.limits, **given)

    @property
    def max_steps(self) -> int:
        """Largest number of policy turns."""
        return self.bounds.max_steps

    def start(
        self,
        question: str | Question,
        *,
        images: list[str],
        video: str | None = None,
        seed: int = 0,
    ) -> EpisodeState:
        """Build the state before the first turn.

        Args:
            question: The user's question; a `Question` is worded as the recipe says.
            images: References of the images that it is about.
            video: Path of the video that it is about.
            seed: Seed of the episode (`turn_seed`).

        Raises:
            ToolError: The media cannot be read, or the protocol has no use for them.
        """
        words = self.protocol.recipe.question
        return {
            "question": question if isinstance(question, str) else words.write(question),
            "images": images,
            "video": video,
            "seed": seed,
            "messages": self.protocol.open(question, images, video),
            "steps": [],
            "answer": None,
            "stop_reason": None,
        }

    def step(self, state: EpisodeState, turn: PolicyTurn) -> EpisodeState:
        """Take one whole step: the policy's turn and, unless the episode ends with it, its calls.

        Args:
            state: A state that has no `stop_reason`.
            turn: The policy's answer to the state's messages.
        """
        state = apply_update(state, self.after_turn(state, turn))
        return state if state["stop_reason"] else apply_update(state, self.after_call(state))

    def after_turn(self, state: EpisodeState, turn: PolicyTurn) -> dict[str, Any]:
        """Parse a policy turn and decide whether the episode ends with it.

        Returns:
            The state's update: the assistant message, the step, and perhaps answer and reason.
        """
        parsed = self.protocol.read(turn.text)
        step: Step = {
            "index": len(state["steps"]),
            "text": turn.text,
            "thought": parsed.thought,
            "tool_calls": [_pending(call) for call in parsed.calls],
            "error": parsed.error,
            "replay": turn.replay,
            "seconds": turn.seconds,
        }
        cut_off = turn.finish_reason == "length"
        answer = None if cut_off and parsed.open_ended else parsed.answer
        reason: StopReason | None = None
        if answer is not None:
            reason = StopReason.ANSWERED
        elif cut_off:
            reason = StopReason.MAX_TOKENS
        elif not parsed.calls and parsed.error is None:
            reason = StopReason.NO_ANSWER
        elif step["index"] + 1 >= self.max_steps:
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
        """Run the last step's calls in order, or report what was wrong with the turn.

        Returns:
            The state's update: the message with the results and the completed step. If a result
            exceeds the limit of images, there is no message but a stop reason.

        Raises:
            ValueError: There is no step.
        """
        if not state["steps"]:
            raise ValueError("there is no turn whose calls could be run: start the episode anew")
        step = state["steps"][-1].copy()
        uses = step["tool_calls"] = [use.copy() for use in step["tool_calls"]]
        scene = Scene.of(state)
        images = 0
        for use in uses:
            call: ToolCall = {"name": use["name"], "arguments": use["arguments"]}
            began = time.perf_counter()
            try:
                use["observation"] = self.protocol.run(call, scene)
            except ToolError as error:
                use["error"] = str(error)
            use["seconds"] = time.perf_counter() - began
            if use["observation"] is None:
                continue
            images += len(use["observation"]["images"])
            if not self._fits(state, images):
                return {"steps": [step], "stop_reason": StopReason.MAX_IMAGES.value}
        return {"messages": [self.protocol.show(step, scene)], "steps": [step]}

    def _repeats(self, state: EpisodeState, step: Step) -> bool:
        """Tell whether one of the step's calls was made more often than it may be."""
        earlier = [use for past in state["steps"] for use in past["tool_calls"]]
        counts = Counter(map(_key, [*earlier, *step["tool_calls"]]))
        return any(counts[_key(use)] > self.bounds.max_repeats for use in step["tool_calls"])

    def _fits(self, state: EpisodeState, images: int) -> bool:
        """Tell whether so many more images fit into the limits."""
        media = _media_parts(state)
        videos = [part for part in media if part["type"] == "video"]
        pictures = len(media) - len(videos) + images
        frames = sum(len(video["frames"]) for video in videos)
        most = self.bounds.max_pictures
        return pictures + frames <= self.bounds.max_images and (
            most is None or pictures + len(videos) <= most
        )


def turn_seed(seed: int, step: int) -> int:
    """Derive the sampling seed of one turn, so that a resumed episode samples as a whole one."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def apply_update(state: EpisodeState, update: Mapping[str, Any]) -> EpisodeState:
    """Merge an update of the loop into a state: messages and steps are added to what is there."""
    merged: dict[str, Any] = {**state, **update}
    merged["messages"] = append_messages(state["messages"], update.get("messages", []))
    merged["steps"] = merge_steps(state["steps"], update.get("steps", []))
    return merged  # type: ignore[return-value]


def completed_steps(state: EpisodeState, earlier: EpisodeState) -> list[Step]:
    """List the steps that were completed between two states of a stream.

    A step is complete when all its calls have an observation or an error, or with the episode.
    """

    def count(at: EpisodeState) -> int:
        steps = at["steps"]
        pending = any(
            use["observation"] is None and use["error"] is None
            for step in steps[-1:]
            for use in step["tool_calls"]
        )
        return len(steps) - (pending and not at["stop_reason"])

    return state["steps"][count(earlier) : count(state)]


def _pending(call: ToolCall) -> ToolUse:
    """The record of a call that was not run yet."""
    name, arguments = call["name"], call["arguments"]
    return {"name": name, "arguments": arguments, "observation": None, "error": None}


def _key(use: ToolUse) -> str:
    """A text that is the same for the same call."""
    return json.dumps([use["name"], use["arguments"]], sort_keys=True)


def _media_parts(state: EpisodeState) -> list[ImagePart | VideoPart]:
    """The images and videos in the conversation so far."""
    parts = [part for message in state["messages"] for part in message["content"]]
    return [part for part in parts if part["type"] != "text"]
