"""The agent's loop as a solver of Inspect."""

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from anyio import from_thread
from inspect_ai.log import transcript
from inspect_ai.model import (
    ChatMessage,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentText,
    ContentVideo,
    Model,
    ModelOutput,
    ModelUsage,
    StopReason,
    get_model,
)

# There is no public way to the options of a task, and to its count of tokens.
from inspect_ai.model._generate_config import active_generate_config
from inspect_ai.model._model import record_and_check_model_usage
from inspect_ai.solver import Generate, Solver, TaskState
from inspect_ai.util import LimitExceededError

from visreplay.agent.chat.renderer import MessageError
from visreplay.agent.episode.limits import Limits
from visreplay.agent.episode.loop import completed_steps, turn_seed
from visreplay.agent.episode.rollouts import play_in_lockstep
from visreplay.agent.episode.trajectory import StopReason as EpisodeEnd
from visreplay.agent.episode.trajectory import Trajectory
from visreplay.agent.episode.visual_agent import VisualAgent
from visreplay.agent.inspect.messages import Pictures, local_name, message_parts, step_messages
from visreplay.agent.inspect.model import ReplayAPI, run_unless_cancelled, usage_of
from visreplay.agent.inspect.options import EPISODE_OPTIONS, REPLAY, check_names, checked
from visreplay.agent.policy.replay_policy import PolicyTurn
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.protocols import Question
from visreplay.agent.state import EpisodeState
from visreplay.replay_core import ConfigError

TRAJECTORY = "visreplay_trajectory"
"""The key of a sample's store that has the record of its episode."""

_STOP_REASONS: Mapping[EpisodeEnd, StopReason] = {
    EpisodeEnd.ANSWERED: "stop",
    EpisodeEnd.NO_ANSWER: "stop",
    EpisodeEnd.MAX_TOKENS: "max_tokens",
}
"""Inspect's words for the ends of an episode; it has none for the others."""


def episode_solver(limits: Mapping[str, Any]) -> Solver:
    """Make the solver that plays an episode of the agent on each sample.

    The model under evaluation is one of ours, and has pair, protocol and replay. The answer becomes
    the output, whose `metadata` say why the episode ended and what replay did in each step. The
    turns become messages, with the calls and the images that they made. The record of the episode
    (`Trajectory`) is in the sample's store. Epochs have seeds of their own.

    Args:
        limits: Fields of `Limits`.

    Raises:
        ConfigError: There is no such limit, or its value is out of range.
    """
    names = [field.name for field in fields(Limits)]
    more = "; replay is set on the model: -M method=state" if set(limits) & set(REPLAY) else ""
    check_names(limits, names, "argument of the solver visreplay/agent:", more)
    bounds = checked(Limits, limits)

    @lru_cache(maxsize=1)
    def agent_of(api: ReplayAPI, sampling: Sampling) -> VisualAgent:
        own = api.agent
        return VisualAgent(
            own.pair, own.protocol, own.replay, names=own.names, sampling=sampling, limits=bounds
        )

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        model = get_model()
        api = model.api
        if not isinstance(api, ReplayAPI):
            raise ConfigError(
                f"the model is {model}, but the solver visreplay/agent plays with a model under "
                "replay: --model visreplay/embedded, or visreplay/ and a checkpoint"
            )
        config = model.config.merge(active_generate_config())
        agent = agent_of(api, api.sampling(config, EPISODE_OPTIONS))
        episode = _Episode(agent, model, api, state, config.seed or 0)
        trajectory = await api.in_turn(episode.play)
        state.store.set(TRAJECTORY, trajectory.to_json())
        state.output = episode.output(trajectory)
        return state

    return solve


class _Episode:
    """An episode on a sample, played in a thread; its turns are shown on Inspect's event loop."""

    def __init__(
        self, agent: VisualAgent, model: Model, api: ReplayAPI, state: TaskState, seed: int
    ) -> None:
        self._agent = agent
        self._model = model
        self._api = api
        self._state = state
        self._seed = seed + state.epoch - 1
        self._usage = ModelUsage(input_tokens_cache_read=0)

    def play(self) -> Trajectory:
        """Play the episode to its end.

        Raises:
            MessageError: The sample is no single question.
            ToolError: The media cannot be read, or the protocol has no use for them.
            LimitExceededError: The sample has as many messages or tokens as it may have.
        """
        loop = self._agent.loop
        question, images, video = self._question()
        self._pictures = Pictures(self._agent.store, images)
        start = loop.start(question, images=[*images], video=video, seed=self._seed)
        self._shown = start
        with self._agent.policy.sessions.holding(2):
            (end,) = play_in_lockstep(loop, [start], self._write_turns)
        self._show(end)
        return self._agent.trajectory(end, driver="rollouts")

    def output(self, trajectory: Trajectory) -> ModelOutput:
        """Make the output of a finished episode; without an answer its text is empty."""
        output = ModelOutput.from_content(
            self._api.model_name,
            trajectory.answer or "",
            _STOP_REASONS.get(trajectory.stop_reason, "unknown"),
        )
        output.usage = self._usage
        output.time = sum(step["seconds"] for step in trajectory.steps)
        output.metadata = {
            "stop_reason": trajectory.stop_reason.value,
            "replay": [step["replay"] for step in trajectory.steps],
        }
        return output

    def _question(self) -> tuple[str | Question, dict[str, ContentImage], str | None]:
        """Find the sample's question, its images by their references, and the path of its video."""
        messages = self._state.messages
        if len(messages) != 1 or not isinstance(messages[0], ChatMessageUser):
            roles = ", ".join(message.role for message in messages)
            raise MessageError(
                f"the messages are {roles or 'none'}, but the agent plays a single question: leave "
                "out other messages, or use the solver generate"
            )
        (message,) = messages
        images: dict[str, ContentImage] = {}
        video = None
        for content in message.content_list:
            match content:
                case ContentVideo():
                    video = _video_path(content)
                case ContentImage():
                    alone = ChatMessageUser(content=[content])
                    (part,) = message_parts(alone, self._api.chat.renderer)
                    assert part["type"] == "image"
                    images[part["image"]] = content
                case ContentText():
                    pass
                case _:
                    message_parts(message, self._api.chat.renderer)  # says what is wrong with it
        options = {chr(ord("A") + i): each.value for i, each in enumerate(self._state.choices)}
        return Question(message.text, options) if options else message.text, images, video

    def _write_turns(self, running: Mapping[int, EpisodeState]) -> dict[int, PolicyTurn]:
        """Show the steps so far, and write the next turn."""
        (state,) = running.values()
        self._show(state)
        seed = turn_seed(state["seed"], len(state["steps"]))
        turn = run_unless_cancelled(self._agent.policy.stream(state["messages"], seed=seed))
        usage = usage_of([turn])
        self._usage += usage
        from_thread.run_sync(record_and_check_model_usage, self._model, usage)
        return dict.fromkeys(running, turn)

    def _show(self, state: EpisodeState) -> None:
        """Add the messages of the steps that were completed since the last time."""
        for step in completed_steps(state, self._shown):
            calls_at = self._agent.protocol.read(step["text"]).calls_at
            messages = step_messages(step, calls_at, self._api.model_name, self._pictures)
            from_thread.run_sync(self._append, messages, step["replay"], not state["stop_reason"])
        self._shown = state

    def _append(
        self, messages: list[ChatMessage], replay: dict[str, Any] | None, goes_on: bool
    ) -> None:
        if replay is not None:
            transcript().info(replay, source="visreplay")
        for message in messages:
            self._state.messages.append(message)  # raises beyond the limit
        limit, number = self._state.message_limit, len(self._state.messages)
        if goes_on and limit is not None and number >= limit:
            raise LimitExceededError("message", value=number, limit=limit)


def _video_path(content: Content) -> str:
    assert isinstance(content, ContentVideo)
    path = local_name(content.video)
    if not path.startswith("/"):
        raise MessageError(
            f"the video is {path[:40]!r}, but an episode looks at a file: give its path"
        )
    return path
