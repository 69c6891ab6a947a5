"""The pair that a command works on: the one that the user named, or the embedded pair."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import visreplay.agent as agents
import visreplay.replay_core as replay_core
from visreplay.agent.episode.limits import Limits
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.protocols import Recipe, choose_recipe
from visreplay.replay_core.config import Method, ReplayConfig, Threshold
from visreplay.replay_core.embedded_pair import EMBEDDED_PAIRS, EmbeddedPair
from visreplay.replay_core.errors import ConfigError
from visreplay.replay_core.tuned import tuned_config
from visreplay.tasks.commands.console import Console
from visreplay.tasks.commands.options import PairOptions
from visreplay.tasks.evaluation.paper import paper_replay
from visreplay.tools import ImageStore

if TYPE_CHECKING:
    from visreplay.agent.policy.writing import Writer


@dataclass(frozen=True)
class PairChoice:
    """A pair that is not loaded yet.

    Attributes:
        policy: Folder or hub id of the policy, or the name of an embedded pair.
        base: Folder or hub id of the base, if there is one.
        embedded: The embedded pair; None for any other.
        options: How to load it, and its protocol.
    """

    policy: str
    base: str | None
    embedded: EmbeddedPair | None
    options: PairOptions

    @classmethod
    def of(cls, options: PairOptions, console: Console) -> Self:
        """Choose the pair that was named, or else the embedded one, and print a note on that."""
        if options.policy is None:
            console.print(
                "[dim]No --policy: using the embedded pair, a tiny model that knows only its "
                "two synthetic tasks.[/]"
            )
        policy = options.policy or "embedded"
        embedded = EMBEDDED_PAIRS.get(policy)
        base = options.base
        if embedded and base in (None, policy):
            base = str(embedded.base)
        return cls(policy, base, embedded, options)

    @property
    def names(self) -> tuple[str, str | None]:
        """The names of policy and base in records."""
        if self.embedded is None:
            return self.policy, self.base
        name, base_name = self.embedded.names
        return name, base_name if self.base == str(self.embedded.base) else self.base

    @property
    def address(self) -> dict[str, str]:
        """The address of the policy in records: none, since it is loaded here."""
        return {}

    @property
    def recipe(self) -> Recipe:
        """The recipe that was named, or the one that suits protocol and policy; with pixel limits.

        Raises:
            ConfigError: There is no such recipe, or it is not written for the protocol.
        """
        chosen = choose_recipe(self.policy, str(self.options.protocol), self.options.recipe)
        return chosen.changed(
            min_pixels=self.options.min_pixels, max_pixels=self.options.max_pixels
        )

    def writing(self, config: ReplayConfig) -> str:
        """Name the checkpoint that writes: the policy's, or the base's where they change roles.

        Raises:
            ConfigError: They change roles, and there is no base.
        """
        if not config.swap_roles:
            return self.policy
        if self.base is None:
            raise ConfigError("the base is to write (--swap-roles), but there is none: add --base")
        return self.base

    def config(self, settings: Mapping[str, Any]) -> ReplayConfig:
        """Build the replay settings.

        Args:
            settings: Fields of `ReplayConfig` that the user set. `theta` is the path of a file of
                limits, and makes the threshold absolute.

        Raises:
            ConfigError: The settings do not go together.
            ValueError: `--paper`, but the paper has no row of the policy.
        """
        settings = dict(settings)
        if "theta" in settings:
            rule = settings.setdefault("threshold", Threshold.ABSOLUTE)
            if rule is not Threshold.ABSOLUTE:
                raise ConfigError(
                    f"--theta holds limits for the absolute threshold, but --threshold is {rule}: "
                    "leave out one of them"
                )
            settings["theta"] = replay_core.load_theta(settings["theta"])
        tuned = self.embedded.settings if self.embedded else {}
        method = Method.TOKEN
        if self.options.paper:
            row = paper_replay(self.policy)
            tuned = {each: ReplayConfig.paper(each) for each in (Method.TOKEN, Method.STATE)}
            tuned[row.method], method = row, row.method
        return tuned_config(tuned, settings.pop("method", method), **settings)

    def sampling(self, own: Sampling, config: ReplayConfig) -> Sampling:
        """Fill in the settings of decoding as the agent will, before anything is loaded.

        Args:
            own: The settings that the user set.
            config: Whether policy and base change roles.
        """
        from visreplay.replay_core.loading import load_decoding

        roles = (self.policy, self.base)
        if config.swap_roles and self.base:
            roles = (self.base, None)
        return own.resolved(self.recipe.decoding, Sampling(**load_decoding(*roles)))

    def load(self, replay_layers: int | None = None) -> "replay_core.ModelPair":
        """Load both models.

        Args:
            replay_layers: Number of the base's layers that will be needed; None keeps all.
        """
        self._prepare()
        return replay_core.load_pair(
            self.policy,
            self.base,
            replay_layers=replay_layers,
            device=self.options.device,
            base_device=self.options.base_device,
            dtype=self.options.dtype,
            processor=self.options.processor,
            **self.options.load_options,
        )

    def load_base(self) -> "replay_core.ModelPair":
        """Load the base alone, as the policy of a pair without a base."""
        self._prepare()
        return replay_core.load_pair(
            self.base or self.policy,
            device=self.options.base_device or self.options.device,
            dtype=self.options.dtype,
            processor=self.options.processor or self.policy,
            **self.options.load_options,
        )

    def agent(
        self,
        config: ReplayConfig,
        recipe: Recipe,
        sampling: Sampling,
        limits: Limits,
        images: Path | None = None,
        writer: "Writer | None" = None,
    ) -> "agents.VisualAgent":
        """Load both models and make the agent.

        Args:
            config: How to replay.
            recipe: Texts, sizes of images and formats.
            sampling: How a turn is decoded.
            limits: Where an episode is stopped.
            images: Folder for the images; in memory when None.
            writer: What writes the turns; None takes the policy's own model.
        """
        self._prepare()
        return agents.VisualAgent.from_pretrained(
            self.policy,
            self.base,
            recipe=recipe,
            replay=config,
            device=self.options.device,
            base_device=self.options.base_device,
            dtype=self.options.dtype,
            processor=self.options.processor,
            load_options=self.options.load_options,
            store=ImageStore(images) if images else None,
            sampling=sampling,
            limits=limits,
            names=self.names,
            writer=writer,
        )

    def _prepare(self) -> None:
        """Keep transformers from printing; the small embedded pair runs on one thread."""
        from transformers.utils import logging

        from visreplay.agent.episode.embedded_agent import prepare_process

        if self.embedded:
            prepare_process()
        else:
            logging.set_verbosity_error()
            if not sys.stderr.isatty():
                logging.disable_progress_bar()
