"""The agent as a user meets it: load a pair, ask about a picture or a video, get the record."""

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
from visreplay.agent.copying import SharesWeights
from visreplay.agent.episode.graph import build_graph
from visreplay.agent.episode.limits import Limits
from visreplay.agent.episode.loop import Loop
from visreplay.agent.episode.rollouts import play_rollouts
from visreplay.agent.episode.state_shapes import checked_state
from visreplay.agent.episode.trajectory import Trajectory
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.policy.replay_policy import ReplayPolicy
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.protocols import (
    Question,
    Recipe,
    ToolProtocol,
    choose_recipe,
    get_protocol,
)
from visreplay.agent.state import EpisodeState, shown_images
from visreplay.replay_core import Method, ModelPair, ReplayConfig, ReplaySession, load_pair
from visreplay.tools import ImageStore, load_image
from visreplay.tools.types import Picture

Driver = Literal["graph", "rollouts"]
"""The driver that played an episode: the LangGraph graph, or the batches of `rollouts`."""


class VisualAgent(SharesWeights):
    """A pair, a protocol and an image store, ready to run episodes.

    Examples:
        The pair that ships with the package reads characters on coloured markers:

        >>> from visreplay.tasks.registry import get_task
        >>> sample = get_task("visual-search-medium").sample(1)
        >>> agent = VisualAgent.from_pretrained("embedded")
        >>> trajectory = agent.run(sample.question, images=sample.images)
        >>> trajectory.answer == sample.answer
        True

        Your own checkpoints are folders or hub ids:

        >>> agent = VisualAgent.from_pretrained(
        ...     "ChenShawn/DeepEyes-7B", "Qwen/Qwen2.5-VL-7B-Instruct"
        ... )  # doctest: +SKIP
        >>> agent.run("What is on the red sign?", images=["photo.jpg"]).answer  # doctest: +SKIP

    Args:
        pair: Policy and base.
        protocol: How the policy calls tools and answers.
        replay: How to replay: a configuration, or the name of a method.
        names: What the record calls policy and base; None takes the pair's names.
        sampling: How to decode; what is not set is the protocol's recipe's, then the checkpoint's
            (`Sampling`). The attribute and the records have everything that is used.
        limits: Where to stop.
        checkpointer: Any of LangGraph's, to resume episodes.
    """

    def __init__(
        self,
        pair: ModelPair,
        protocol: ToolProtocol,
        replay: ReplayConfig | str = Method.TOKEN,
        *,
        names: tuple[str, str | None] | None = None,
        sampling: Sampling = Sampling(),
        limits: Limits = Limits(),
        checkpointer: Checkpointer = None,
    ) -> None:
        self.names = pair.names if names is None else names
        self.pair = pair
        self.protocol = protocol
        self.replay = pair.replay_config(replay)
        ReplaySession(pair, self.replay).close()  # settings that do not fit the pair raise here
        self.limits = limits
        self.store = protocol.store
        self.policy = ReplayPolicy(
            pair,
            self.replay,
            self.store,
            sampling=sampling,
            recipe_sampling=protocol.sampling,
            stop_strings=protocol.stop_strings,
            grid=protocol.grid,
        )
        self.sampling = self.policy.resolved()
        self.loop = Loop(protocol, limits)
        self.graph = build_graph(self.policy, protocol, limits, checkpointer)

    @classmethod
    def from_pretrained(
        cls,
        policy: str = "embedded",
        base: str | None = None,
        *,
        protocol: str = "auto",
        recipe: Recipe | str | Path | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        replay: ReplayConfig | str = Method.TOKEN,
        device: str = "auto",
        base_device: str | None = None,
        dtype: str = "auto",
        processor: str | None = None,
        store: ImageStore | None = None,
        load_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Load checkpoints (folders or hub ids) and build the agent.

        Args:
            policy: The RLVR-trained model, or "embedded" for the pair that ships with the package.
            base: The model that it was trained from; not loaded for method "none", unless the
                policy is an adapter on it.
            protocol: A key of `PROTOCOLS`; "auto" chooses by the recipe or the policy's name.
            recipe: The texts, budgets and limits of the policy's training: a recipe, the path of
                its file, or the name of one that ships. None chooses by the policy's name.
            min_pixels: Images with fewer pixels are enlarged; None takes the recipe's limit, or the
                processor's.
            max_pixels: Images with more pixels are shrunk; None as before.
            replay: How to replay: a configuration, or the name of a method.
            device: Device of the policy, as in `load_pair`.
            base_device: Device of the base, as in `load_pair`.
            dtype: As in `load_pair`.
            processor: As in `load_pair`.
            store: Where images are kept. None keeps them in memory, up to a gigabyte and what
                running episodes need: those that were not used for longest go first. With a
                checkpointer, all of them are kept, since an episode may be resumed.
            load_options: More options of `load_pair`: `device_map`, `attn_implementation`, ...
            **options: Arguments of the constructor.

        Raises:
            ValueError: There is no such protocol, recipe or method.
            ReplayError: The pair cannot be loaded (`load_pair`).
        """
        chosen = choose_recipe(policy, protocol, recipe).changed(
            min_pixels=min_pixels, max_pixels=max_pixels
        )
        pair = load_pair(
            policy,
            base,
            replay=replay,
            device=device,
            base_device=base_device,
            dtype=dtype,
            processor=processor,
            **(load_options or {}),
        )
        if store is None:
            forgetful = options.get("checkpointer") is None
            store = ImageStore(memory_bytes=STORE_BYTES, forgetful=forgetful)
        tool_protocol = get_protocol(chosen, token_grid(pair.processor), store)
        return cls(pair, tool_protocol, replay, **options)

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

    def with_store(self, store: ImageStore) -> Self:
        """Make the same agent with its own images and caches, and no checkpointer."""
        return type(self)(
            self.pair,
            replace(self.protocol, store=store),
            self.replay,
            names=self.names,
            sampling=self.sampling,
            limits=self.limits,
        )

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
            settings={
                "driver": driver,
                "replay": asdict(self.replay),
                "sampling": asdict(self.sampling),
                "limits": asdict(self.loop.bounds),
                "recipe": self.protocol.recipe.to_table(),
                "versions": versions(),
            },
        )

    def close(self) -> None:
        """Free the policy's caches."""
        self.policy.close()


def versions() -> dict[str, str]:
    """Look up the versions of everything that can change a result."""
    names = (
        *("visreplay", "torch", "torchvision", "transformers", "langgraph", "numpy", "pillow"),
        *("opencv-python-headless", "av"),
    )
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
