"""The agent on a model behind a URL, without replay."""

from pathlib import Path
from typing import Any, Self

from langgraph.types import Checkpointer

from visreplay.agent.episode.agent import Agent, episode_store
from visreplay.agent.episode.limits import Limits
from visreplay.agent.policy.endpoint import Endpoint
from visreplay.agent.policy.remote_policy import RemotePolicy
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.protocols import Recipe, ToolProtocol, choose_recipe, get_protocol
from visreplay.replay_core import ConfigError, Method, ReplayConfig
from visreplay.tools import ImageStore, TokenGrid

REMOTE_GRID = TokenGrid(min_pixels=56 * 56, max_pixels=2560 * 28 * 28, resample="bicubic")
"""The sizes of images where neither caller nor recipe says them: sides that are multiples of 28
pixels, and up to 2 megapixels. What is behind the URL may shrink them again."""


class RemoteAgent(Agent):
    """A model at an OpenAI-compatible endpoint: it plays episodes by the methods of `Agent`.

    Examples:
        The key, if the endpoint wants one, is in the environment variable `VISREPLAY_POLICY_KEY`.

        >>> agent = RemoteAgent.at("https://api.openai.com/v1", "gpt-4o")
        >>> agent.names[0], agent.protocol.name
        ('gpt-4o at api.openai.com', 'hermes')
        >>> agent.run("What is on the red sign?", images=["photo.jpg"]).answer  # doctest: +SKIP

    Args:
        endpoint: Where the model is.
        model: Its name there.
        protocol: How it calls tools and answers.
        sampling: How to decode; what is not set is the protocol's recipe's, and else left to the
            endpoint, apart from greedy decoding and a limit of tokens.
        limits: Where to stop.
        parallel: Largest number of requests at once.
        checkpointer: Any of LangGraph's, to resume episodes.
    """

    policy: RemotePolicy

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        protocol: ToolProtocol,
        *,
        sampling: Sampling = Sampling(),
        limits: Limits = Limits(),
        parallel: int = 8,
        checkpointer: Checkpointer = None,
    ) -> None:
        policy = RemotePolicy(
            endpoint,
            model,
            protocol.store,
            sampling=sampling,
            recipe_sampling=protocol.sampling,
            stop_strings=protocol.stop_strings,
            grid=protocol.grid,
            parallel=parallel,
        )
        super().__init__(
            policy,
            protocol,
            names=(endpoint.named(model), None),
            replay=ReplayConfig(Method.NONE),
            sampling=policy.resolved(),
            limits=limits,
            checkpointer=checkpointer,
        )

    @classmethod
    def at(
        cls,
        url: str | Endpoint,
        model: str | None = None,
        *,
        protocol: str = "auto",
        recipe: Recipe | str | Path | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        store: ImageStore | None = None,
        **options: Any,
    ) -> Self:
        """Build the agent on a model at a URL.

        Args:
            url: The endpoint's address up to, and without, `/chat/completions`; or an endpoint.
            model: The model's name there; None takes the only one that the endpoint lists.
            protocol: A key of `PROTOCOLS`; "auto" chooses by the recipe or the model's name, and
                takes "hermes", for any instruction-tuned model, where the name tells nothing.
            recipe: The texts, budgets and limits of the model: a recipe, the path of its file, or
                the name of one that ships. None chooses by the model's name.
            min_pixels: Images with fewer pixels are enlarged; None takes the recipe's limit, or
                that of `REMOTE_GRID`.
            max_pixels: Images with more pixels are shrunk; None as before.
            store: Where images are kept; None as in `VisualAgent.from_pretrained`.
            **options: Arguments of the constructor.

        Raises:
            ConfigError: The address cannot be used, there is no such protocol or recipe, or the
                endpoint has several models.
            EndpointError: The endpoint does not list its models.
        """
        endpoint = Endpoint(url) if isinstance(url, str) else url
        model = endpoint.only_model() if model is None else model
        chosen = choose_recipe(model, protocol, recipe).changed(
            min_pixels=min_pixels, max_pixels=max_pixels
        )
        if store is None:
            store = episode_store(options.get("checkpointer"))
        return cls(endpoint, model, get_protocol(chosen, REMOTE_GRID, store), **options)

    def changed(self, protocol: ToolProtocol, replay: ReplayConfig | None = None) -> Self:
        """Make an agent on the same model, with connections of its own; see `Agent`."""
        if replay is not None and replay.method is not Method.NONE:
            raise ConfigError(f"the model at {self.policy.endpoint.url} cannot replay")
        return type(self)(
            Endpoint(self.policy.endpoint.url),
            self.policy.model,
            protocol,
            sampling=self.policy.sampling,
            limits=self.limits,
            parallel=self.policy.parallel,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Everything else that it takes to run an episode again, with the endpoint's address."""
        return {**super().settings, "policy_url": self.policy.endpoint.url}
