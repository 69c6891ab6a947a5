"""The policy that a command plays: a pair, or a model behind a URL."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import visreplay.agent as agents
from visreplay.agent.episode.limits import Limits
from visreplay.agent.policy.endpoint import Endpoint
from visreplay.agent.policy.sampling import Sampling, requested
from visreplay.agent.protocols import Recipe, choose_recipe
from visreplay.replay_core.config import Method, ReplayConfig
from visreplay.replay_core.errors import ConfigError
from visreplay.tasks.commands.console import Console
from visreplay.tasks.commands.options import EndpointOptions, PairOptions
from visreplay.tasks.commands.pair_choice import PairChoice
from visreplay.tasks.commands.settings import KNOBS
from visreplay.tools import ImageStore

if TYPE_CHECKING:
    from visreplay.agent.policy.writing import Writer

MEANT_FOR_IT = ("policy", "protocol", "recipe", "min_pixels", "max_pixels")
"""Fields of `PairOptions` that mean something for a policy at a URL."""


def choose_policy(
    pair: PairOptions, endpoint: EndpointOptions, console: Console
) -> "PairChoice | RemoteChoice":
    """Choose the model at the URL if there is one, or else the pair.

    Raises:
        ConfigError: An option means nothing for a policy at a URL, or it has several models.
        EndpointError: It does not list its models.
    """
    if endpoint.policy_url is None:
        return PairChoice.of(pair, console)
    return RemoteChoice.of(pair, endpoint.policy_url)


@dataclass(frozen=True)
class RemoteChoice:
    """A model behind a URL.

    Attributes:
        endpoint: Where it is.
        model: Its name there.
        options: Its protocol, and the sizes of its images.
    """

    endpoint: Endpoint
    model: str
    options: PairOptions

    @classmethod
    def of(cls, options: PairOptions, url: str) -> Self:
        """Choose the model that was named, or else the only one that the endpoint lists."""
        for field in fields(options):
            if field.name not in MEANT_FOR_IT and getattr(options, field.name) != field.default:
                raise _refused(field.name, "the policy at that URL is loaded by another program")
        endpoint = Endpoint(url)
        return cls(endpoint, options.policy or endpoint.only_model(), options)

    @property
    def names(self) -> tuple[str, None]:
        """The names of policy and base in records."""
        return self.endpoint.named(self.model), None

    @property
    def address(self) -> dict[str, str]:
        """The address of the policy in records."""
        return {"policy_url": self.endpoint.url}

    @property
    def recipe(self) -> Recipe:
        """The recipe that was named, or the one that suits protocol and model; with pixel limits.

        Raises:
            ConfigError: There is no such recipe, or it is not written for the protocol.
        """
        chosen = choose_recipe(self.model, str(self.options.protocol), self.options.recipe)
        return chosen.changed(
            min_pixels=self.options.min_pixels, max_pixels=self.options.max_pixels
        )

    def config(self, settings: Mapping[str, Any]) -> ReplayConfig:
        """Give the replay settings, which are those of none.

        Args:
            settings: Fields of `ReplayConfig` that the user set.

        Raises:
            ConfigError: The user set another method, or how to replay.
        """
        for name, value in settings.items():
            if (name, value) != ("method", Method.NONE):
                raise _refused(
                    KNOBS[ReplayConfig][name].option or name,
                    "replay needs the activations of policy and base, which no endpoint gives",
                )
        return ReplayConfig(Method.NONE)

    def sampling(self, own: Sampling, config: ReplayConfig) -> Sampling:
        """Fill in the settings of decoding that the endpoint is sent.

        Args:
            own: The settings that the user set.
            config: Not used: there is no replay.
        """
        return requested(own, self.recipe.decoding)

    def writing(self, config: ReplayConfig) -> str:
        """Refuse an engine beside the endpoint.

        Raises:
            ConfigError: In any case.
        """
        raise _refused("engine", "the endpoint writes the turns")

    def agent(
        self,
        config: ReplayConfig,
        recipe: Recipe,
        sampling: Sampling,
        limits: Limits,
        images: Path | None = None,
        writer: "Writer | None" = None,
    ) -> "agents.RemoteAgent":
        """Make the agent.

        Args:
            config: As in `sampling`.
            recipe: Texts, sizes of images and formats.
            sampling: How a turn is decoded.
            limits: Where an episode is stopped.
            images: Folder for the images; in memory when None.
            writer: None: `writing` refuses any other.
        """
        return agents.RemoteAgent.at(
            self.endpoint,
            self.model,
            recipe=recipe,
            store=ImageStore(images) if images else None,
            sampling=sampling,
            limits=limits,
        )


def _refused(name: str, reason: str) -> ConfigError:
    option = name.replace("_", "-")
    return ConfigError(f"--{option} has no effect beside --policy-url: {reason}; leave it out")
