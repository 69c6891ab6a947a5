"""What plays episodes: a policy, a protocol and an image store."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.types import Checkpointer

from visreplay.agent.chat.chat_policy import STORE_BYTES
from visreplay.agent.episode.graph import build_graph
from visreplay.agent.episode.limits import Limits
from visreplay.agent.episode.loop import Loop
from visreplay.agent.episode.rollouts import RolloutPolicy, play_rollouts
from visreplay.agent.episode.state_shapes import checked_state
from visreplay.agent.episode.trajectory import Trajectory
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.protocols import Question, ToolProtocol
from visreplay.agent.state import EpisodeState, shown_images
from visreplay.replay_core import ReplayConfig
from visreplay.tools import ImageStore, load_image
from visreplay.tools.types import Picture

Driver = Literal["graph", "rollouts"]
"""The driver that played an episode: the LangGraph graph, or the batches of `rollouts`."""


class Agent:
    """A policy, a protocol and an image store, ready to run episodes.

    Args:
        policy: Writes the turns.
        protocol: How the policy calls tools and answers; it has the store.
        names: What the record calls policy and base.
        replay: How the policy replays, for the record.
        sampling: How it decodes, for the record.
        limits: Where to stop.
        checkpointer: Any of LangGraph's, to resume episodes.
    """

    def __init__(
        self,
        policy: RolloutPolicy,
        protocol: ToolProtocol,
        *,
        names: tuple[str, str | None],
        replay: ReplayConfig,
        sampling: Sampling,
        limits: Limits = Limits(),
        checkpointer: Checkpointer = None,
    ) -> None:
        self.policy = policy
        self.protocol = protocol
        self.names = names
        self.replay = replay
        self.sampling = sampling
        self.limits = limits
        self.store = protocol.store
        self.loop = Loop(protocol, limits)
        self.graph = build_graph(policy, protocol, limits, checkpointer)

    def start(
        self,
        question: str | Question,
        *,
        images: Sequence[Picture] = (),
        video: str | Path | None = None,
        seed: int = 0,
    ) -> EpisodeState:
        """Build the state before the first turn: the graph's input.

        Args:
            question: The user's question; a `Question` is worded as the recipe says.
            images: Paths, bytes of files, or PIL images.
            video: Path of a video.
            seed: Seed of the episode; it changes nothing at temperature 0.

        Raises:
            ToolError: The media cannot be read, or the protocol has no use for them.
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
        """Play an episode by the graph, and yield the state after every turn and every call.

        The store keeps the episode's images as long as it is played.

        Args:
            start: A state that `start` built, or None to resume the thread from its checkpoint.
            thread_id: The checkpointer's name for the episode. A start on a thread that has one
                already begins a new episode in its place.
        """
        config: RunnableConfig = {
            "configurable": {"thread_id": thread_id},
            "recursion_limit": 2 * self.loop.max_steps + 2,
        }
        with self.store.holding() as hold:
            for values in self.graph.stream(start, config, stream_mode="values"):
                state = checked_state(values)
                hold(shown_images(state["images"], state["messages"], state["steps"]))
                yield state

    def run(
        self,
        question: str | Question,
        *,
        images: Sequence[Picture] = (),
        video: str | Path | None = None,
        seed: int = 0,
    ) -> Trajectory:
        """Play an episode to its end by the graph.

        Args:
            question: As in `start`, and so are the others.
            images: See there.
            video: See there.
            seed: See there.
        """
        start = self.start(question, images=images, video=video, seed=seed)
        # A new thread: a checkpointer would continue the last episode of the same one.
        *_, end = self.stream(start, thread_id=str(uuid4()))
        return self.trajectory(end)

    def rollouts(
        self,
        question: str | Question,
        seeds: Sequence[int],
        *,
        images: Sequence[Picture] = (),
        video: str | Path | None = None,
    ) -> list[Trajectory]:
        """Play one episode for each seed, with turns in batches: the episodes that `run` plays.

        Args:
            question: As in `start`.
            seeds: Seeds of the episodes.
            images: As in `start`.
            video: As in `start`.
        """
        starts = [self.start(question, images=images, video=video, seed=seed) for seed in seeds]
        ends = play_rollouts(self.loop, starts, self.policy)
        return [self.trajectory(end, driver="rollouts") for end in ends]

    def changed(self, protocol: ToolProtocol, replay: ReplayConfig | None = None) -> Self:
        """Make an agent on the same policy, with caches of its own and no checkpointer.

        Args:
            protocol: Its protocol, with its texts and its store.
            replay: How it replays; None leaves it as it is.

        Raises:
            ConfigError: The policy cannot replay so.
        """
        raise NotImplementedError

    def with_store(self, store: ImageStore) -> Self:
        """Make an agent on the same policy, with its own images and caches."""
        return self.changed(replace(self.protocol, store=store))

    def trajectory(self, state: EpisodeState, driver: Driver = "graph") -> Trajectory:
        """Make the record of a finished state.

        Args:
            state: The last state of an episode.
            driver: What played it.

        Raises:
            ValueError: The episode has not ended.
        """
        return Trajectory.of(
            state,
            policy=self.names[0],
            base=self.names[1],
            protocol=self.protocol.name,
            settings={"driver": driver, **self.settings},
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Everything else that it takes to run an episode again."""
        return {
            "replay": asdict(self.replay),
            "sampling": asdict(self.sampling),
            "limits": asdict(self.loop.bounds),
            "recipe": self.protocol.recipe.to_table(),
            "versions": versions(),
        }

    def close(self) -> None:
        """Free the policy's caches."""
        self.policy.close()


def episode_store(checkpointer: Checkpointer) -> ImageStore:
    """Make a store in memory: forgetful, unless episodes may be resumed."""
    return ImageStore(memory_bytes=STORE_BYTES, forgetful=checkpointer is None)


def versions() -> dict[str, str]:
    """Look up the versions of everything that can change a result."""
    names = (
        *("visreplay", "torch", "torchvision", "transformers", "langgraph", "numpy", "pillow"),
        *("opencv-python-headless", "av"),
    )
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
