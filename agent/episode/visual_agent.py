"""The agent as a user meets it: load a pair, ask about a picture or a clip, get the record."""

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, cast
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.types import Checkpointer

from visreplay.agent.episode.graph import build_graph, turn_seed
from visreplay.agent.episode.limits import Limits
from visreplay.agent.episode.loop import Loop, apply
from visreplay.agent.episode.trajectory import Trajectory
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.policy.replay_policy import PolicyTurn, ReplayPolicy
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.protocols import ToolProtocol, get_protocol
from visreplay.agent.state import EpisodeState
from visreplay.replay_core import ModelPair, ReplayConfig, load_for
from visreplay.tools import ImageStore, load_image
from visreplay.tools.types import Picture


class VisualAgent:
    """A pair, a protocol and a store, ready to run episodes.

    Example:
        >>> agent = VisualAgent.from_pretrained(
        ...     "ChenShawn/DeepEyes-7B", "Qwen/Qwen2.5-VL-7B-Instruct", protocol="deepeyes"
        ... )
        >>> agent.run("What is written on the red sign?", images=["photo.jpg"]).answer

    Args:
        pair: Policy and base.
        protocol: The dialect of the policy.
        config: How to replay.
        names: What the record calls policy and base.
        sampling: How to decode.
        limits: Where to stop.
        checkpointer: Any of LangGraph's, to resume episodes.
    """

    def __init__(
        self,
        pair: ModelPair,
        protocol: ToolProtocol,
        config: ReplayConfig,
        *,
        names: tuple[str, str | None] = ("policy", "base"),
        sampling: Sampling = Sampling(),
        limits: Limits = Limits(),
        checkpointer: Checkpointer = None,
    ) -> None:
        self.names = names
        self.pair = pair
        self.protocol = protocol
        self.config = config
        self.sampling = sampling
        self.limits = limits
        self.store = protocol.store
        self.policy = ReplayPolicy(
            pair, config, self.store, sampling=sampling, stop_strings=protocol.stop_strings
        )
        self.loop = Loop(protocol, limits)
        self.graph = build_graph(self.policy, protocol, limits, checkpointer)

    @classmethod
    def from_pretrained(
        cls,
        policy: str,
        base: str | None = None,
        *,
        protocol: str,
        config: ReplayConfig = ReplayConfig(),
        device: str = "auto",
        base_device: str | None = None,
        dtype: str = "auto",
        processor: str | None = None,
        store: ImageStore | None = None,
        protocol_options: dict[str, Any] | None = None,
        load_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Load checkpoints (local paths or hub ids) and build the agent.

        Args:
            policy: The RLVR-trained model.
            base: The model that it was trained from; not loaded for method "none", unless the
                policy is an adapter on it.
            protocol: A key of `PROTOCOLS`.
            config: How to replay.
            device: As `load_pair`.
            base_device: As `load_pair`.
            dtype: As `load_pair`.
            processor: As `load_pair`.
            store: Where images go; in memory when None.
            protocol_options: Fields of the protocol, `system_prompt` say.
            load_options: More for `load_pair`: `device_map`, `attn_implementation`, ...
            **options: As the constructor's.
        """
        pair = load_for(
            config,
            policy,
            base,
            device=device,
            base_device=base_device,
            dtype=dtype,
            processor=processor,
            **(load_options or {}),
        )
        dialect = get_protocol(
            protocol,
            token_grid(pair.processor),
            ImageStore() if store is None else store,
            **(protocol_options or {}),
        )
        names = (policy, None if pair.base is None else base)
        return cls(pair, dialect, config, **{"names": names, **options})

    def start(
        self,
        question: str,
        *,
        images: Sequence[Picture] = (),
        video: str | Path | None = None,
        seed: int = 0,
    ) -> EpisodeState:
        """The state before the first turn: the graph's input.

        Raises:
            ToolError: If the media cannot be read or do not suit the protocol.
        """
        return self.loop.start(
            question,
            images=[self.store.put(load_image(image)) for image in images],
            video=None if video is None else str(video),
            seed=seed,
        )

    def stream(
        self, start: EpisodeState | None, *, thread_id: str = "episode"
    ) -> Iterator[EpisodeState]:
        """Play an episode, giving the state after every turn and every call.

        Args:
            start: From `start`, or None to resume the thread from its checkpoint.
            thread_id: Of the checkpointer.
        """
        config: RunnableConfig = {
            "configurable": {"thread_id": thread_id},
            "recursion_limit": 2 * (self.limits.max_steps or self.protocol.max_steps) + 2,
        }
        for state in self.graph.stream(start, config, stream_mode="values"):
            yield cast(EpisodeState, state)

    def run(
        self,
        question: str,
        *,
        images: Sequence[Picture] = (),
        video: str | Path | None = None,
        seed: int = 0,
    ) -> Trajectory:
        """Play an episode to its end."""
        start = self.start(question, images=images, video=video, seed=seed)
        # A thread of its own: a checkpointer would go on with the last episode of the same one.
        *_, end = self.stream(start, thread_id=str(uuid4()))
        return self.trajectory(end)

    def rollouts(
        self,
        question: str,
        seeds: Sequence[int],
        *,
        images: Sequence[Picture] = (),
        video: str | Path | None = None,
    ) -> list[Trajectory]:
        """Play an episode once for each seed: what `run` would play one by one.

        As long as episodes are the same word for word, they are read and replayed once, and their
        next turns decoded as a batch.
        """
        states = [self.start(question, images=images, video=video, seed=seed) for seed in seeds]
        with self.policy.sessions.holding(2 * len(states)):
            while going := [i for i, state in enumerate(states) if not state["stop_reason"]]:
                alike: dict[str, list[int]] = {}
                for i in going:
                    alike.setdefault(json.dumps(states[i]["messages"]), []).append(i)
                for group in alike.values():
                    for i, turn in zip(group, self._turns([states[i] for i in group]), strict=True):
                        states[i] = apply(states[i], self.loop.after_turn(states[i], turn))
                        if not states[i]["stop_reason"]:
                            states[i] = apply(states[i], self.loop.after_call(states[i]))
        return [self.trajectory(state) for state in states]

    def _turns(self, alike: Sequence[EpisodeState]) -> list[PolicyTurn]:
        """The next turn of each of several states whose conversations are the same."""
        messages = alike[0]["messages"]
        seeds = [turn_seed(state["seed"], len(state["steps"])) for state in alike]
        if len(seeds) == 1:
            return [self.policy.act(messages, seed=seeds[0])]
        return self.policy.act_together(messages, seeds)

    def with_store(self, store: ImageStore) -> Self:
        """The same agent with images and caches of its own, and no checkpointer."""
        return type(self)(
            self.pair,
            replace(self.protocol, store=store),
            self.config,
            names=self.names,
            sampling=self.sampling,
            limits=self.limits,
        )

    def trajectory(self, state: EpisodeState) -> Trajectory:
        """The record of a finished state."""
        return Trajectory.of(
            state,
            policy=self.names[0],
            base=self.names[1],
            protocol=self.protocol.name,
            settings={
                "replay": asdict(self.config),
                "sampling": asdict(self.sampling),
                "limits": asdict(self.limits),
                "versions": versions(),
            },
        )

    def close(self) -> None:
        """Free the policy's caches."""
        self.policy.close()


def versions() -> dict[str, str]:
    """Versions of everything that can change a result."""
    names = (
        *("visreplay", "torch", "torchvision", "transformers", "langgraph", "numpy", "pillow"),
        *("opencv-python-headless", "decord2"),
    )
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
