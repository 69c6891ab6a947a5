"""The agent as a user meets it: load a pair, ask about a picture or a video, get the record."""

from pathlib import Path
from typing import Any, Self

from langgraph.types import Checkpointer

from visreplay.agent.copying import SharesWeights
from visreplay.agent.episode.agent import Agent, episode_store
from visreplay.agent.episode.limits import Limits
from visreplay.agent.policy.encoder import token_grid
from visreplay.agent.policy.replay_policy import ReplayPolicy
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.policy.writing import Writer
from visreplay.agent.protocols import Recipe, ToolProtocol, choose_recipe, get_protocol
from visreplay.replay_core import Method, ModelPair, ReplayConfig, ReplaySession, load_pair
from visreplay.tools import ImageStore


class VisualAgent(SharesWeights, Agent):
    """A pair, a protocol and an image store, ready to run episodes by the methods of `Agent`.

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
        writer: What writes the turns, such as vLLM (`VllmSettings.opened`); None takes the pair's
            own model.
    """

    policy: ReplayPolicy

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
        writer: Writer | None = None,
    ) -> None:
        config = pair.replay_config(replay)
        ReplaySession(pair, config).close()  # settings that do not fit the pair raise here
        policy = ReplayPolicy(
            pair,
            config,
            protocol.store,
            sampling=sampling,
            recipe_sampling=protocol.sampling,
            stop_strings=protocol.stop_strings,
            grid=protocol.grid,
            writer=writer,
        )
        self.pair = pair
        super().__init__(
            policy,
            protocol,
            names=pair.names if names is None else names,
            replay=config,
            sampling=policy.resolved(),
            limits=limits,
            checkpointer=checkpointer,
        )

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
            store = episode_store(options.get("checkpointer"))
        tool_protocol = get_protocol(chosen, token_grid(pair.processor), store)
        return cls(pair, tool_protocol, replay, **options)

    def changed(self, protocol: ToolProtocol, replay: ReplayConfig | None = None) -> Self:
        """Make an agent on the same pair, with caches of its own; see `Agent`."""
        return type(self)(
            self.pair,
            protocol,
            self.replay if replay is None else replay,
            names=self.names,
            sampling=self.sampling,
            limits=self.limits,
            writer=self.policy.writer,
        )
