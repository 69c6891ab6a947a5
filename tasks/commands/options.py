"""What the commands have in common: their options, the pair, and how a mistake is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Self, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape
from transformers.utils import logging

from visreplay.agent import PROTOCOLS, Limits, Sampling, VisualAgent, guess_protocol
from visreplay.agent.serving.auth import LOOPBACK, check_access
from visreplay.replay_core import (
    EMBEDDED,
    ConfigError,
    Method,
    ReplayConfig,
    ReplayError,
    Side,
    Teacher,
    Threshold,
    embedded_config,
    load_theta,
)
from visreplay.replay_core.embedded_pair import EMBEDDED_NAMES
from visreplay.tools import ImageStore, ToolError

MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]

VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".gif"}

Protocols = StrEnum("Protocols", {name: name for name in ("auto", *PROTOCOLS)})  # type: ignore[misc]


class Optimizer(StrEnum):
    """Of token replay."""

    SGD = "sgd"
    ADAM = "adam"


@dataclass(frozen=True)
class PairOptions:
    """Which pair, and how to load it."""

    policy: Annotated[
        str | None, typer.Option(help="Policy: local path or hub id. Default: the embedded pair.")
    ] = None
    base: Annotated[
        str | None, typer.Option(help="The model that the policy was trained from.")
    ] = None
    protocol: Annotated[
        Protocols,
        typer.Option(help="Dialect of the policy; auto goes by its name."),
    ] = Protocols["auto"]
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto"
    base_device: Annotated[
        str | None, typer.Option(help="Of the base, where it is to be elsewhere than the policy.")
    ] = None
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto"
    processor: Annotated[
        str | None,
        typer.Option(help="Processor for both, where theirs differ: local path or hub id."),
    ] = None


@dataclass(frozen=True)
class ReplayOptions:
    """How to replay: fields of `ReplayConfig`, where None means the default; and theta's file."""

    replay_layers: Annotated[int | None, typer.Option(help="L of token replay.")] = None
    state_layers: Annotated[int | None, typer.Option(help="Layers of state replay.")] = None
    threshold: Annotated[Threshold | None, typer.Option(help="Rule of the low-entropy set.")] = None
    tau: Annotated[float | None, typer.Option(help="Of the rule.")] = None
    theta: Annotated[
        Path | None,
        typer.Option(help="File of `visreplay calibrate`: limits for the absolute threshold."),
    ] = None
    steps: Annotated[int | None, typer.Option(help="Optimisation steps of token replay.")] = None
    learning_rate: Annotated[float | None, typer.Option(help="Of token replay.")] = None
    optimizer: Annotated[Optimizer | None, typer.Option(help="Of token replay.")] = None
    side: Annotated[Side | None, typer.Option(help="Which side of the limit to replay.")] = None
    teacher: Annotated[Teacher | None, typer.Option(help="Whose activations to replay.")] = None
    swap_roles: Annotated[
        bool, typer.Option("--swap-roles", help="The base answers, replayed from the policy.")
    ] = False
    entry_layer: Annotated[
        int | None, typer.Option(help="Layer that token replay's offset enters; 0: the embeddings.")
    ] = None

    def config(self, checkpoints: "PairChoice", method: Method) -> ReplayConfig:
        """The replay settings for a method.

        Raises:
            ConfigError: the settings do not go together.
        """
        return checkpoints.config(method, **asdict(self))


@dataclass(frozen=True)
class EpisodeOptions:
    """How the agent plays."""

    max_steps: Annotated[int | None, typer.Option(help="Policy turns at most.")] = None
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of a turn at most.")] = 2048
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="0 decodes greedily. Default: 0, but 1 for several rollouts."),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Of sampling.")] = 0
    system_prompt: Annotated[
        Path | None, typer.Option(exists=True, help="File: the checkpoint's own system prompt.")
    ] = None
    user_suffix: Annotated[
        Path | None,
        typer.Option(exists=True, help="File: what the checkpoint expects after a question."),
    ] = None

    @property
    def sampling(self) -> Sampling:
        """How a turn is decoded."""
        return Sampling(self.temperature or 0.0, max_new_tokens=self.max_new_tokens)

    @property
    def limits(self) -> Limits:
        """Where an episode ends."""
        return Limits(self.max_steps)

    @property
    def texts(self) -> dict[str, str]:
        """The checkpoint's own texts, as options of a protocol."""
        files = {"system_prompt": self.system_prompt, "user_suffix": self.user_suffix}
        return {name: path.read_text("utf-8") for name, path in files.items() if path}

    def agent(
        self,
        pair: PairOptions,
        checkpoints: "PairChoice",
        config: ReplayConfig,
        protocol: str,
        images: Path | None,
    ) -> VisualAgent:
        """Load the pair and make the agent.

        Args:
            pair: How to load it.
            checkpoints: What to load.
            config: How to replay.
            protocol: A key of `PROTOCOLS`.
            images: Folder for the images; in memory when None.
        """
        return VisualAgent.from_pretrained(
            checkpoints.policy,
            checkpoints.base,
            protocol=protocol,
            replay=config,
            device=pair.device,
            base_device=pair.base_device,
            dtype=pair.dtype,
            processor=pair.processor,
            store=ImageStore(images) if images else None,
            protocol_options=self.texts,
            sampling=self.sampling,
            limits=self.limits,
            names=checkpoints.names,
        )


@dataclass(frozen=True)
class ListenOptions:
    """Where a server listens, and to whom."""

    host: Annotated[str, typer.Option(help="Address to listen at.")] = LOOPBACK[0]
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="VISREPLAY_API_KEY",
            help="What clients must send as a Bearer token, as which OpenAI's send their API key; "
            "needed beyond loopback.",
        ),
    ] = None

    def check(self) -> None:
        """Refuse to listen to other machines without a key.

        Raises:
            ValueError: As `check_access`.
        """
        check_access(self.host, self.api_key)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses: every field of one is an option of its own.

    Typer reads the signature, which this spreads out; the command is called with the dataclasses.
    """
    hints = get_type_hints(command, include_extras=True)
    bundles = {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)
    }
    spread: list[Parameter] = []
    for name, parameter in signature(command).parameters.items():
        if name not in bundles:
            spread.append(parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY))
            continue
        types = get_type_hints(bundles[name], include_extras=True)
        spread += [
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=types[field.name],
            )
            for field in fields(bundles[name])
        ]

    @wraps(command)
    def gather(**given: Any) -> None:
        for name, bundle in bundles.items():
            given[name] = bundle(**{field.name: given.pop(field.name) for field in fields(bundle)})
        command(**given)

    gather.__signature__ = Signature(spread)  # type: ignore[attr-defined]
    return gather


@dataclass(frozen=True)
class PairChoice:
    """Which pair a command works on.

    Attributes:
        policy: Folder or hub id.
        base: The same of the base, if it was named.
        embedded: Whether it is the pair that ships.
    """

    policy: str
    base: str | None
    embedded: bool

    @classmethod
    def of(cls, policy: str | None, base: str | None, console: Console) -> Self:
        """Those that were named, or else the embedded pair; says so."""
        logging.set_verbosity_error()
        if policy is not None:
            return cls(policy, base, embedded=False)
        logging.disable_progress_bar()
        console.print(
            "[dim]No --policy: using the embedded pair, a tiny model that knows only its "
            "two generated tasks.[/]"
        )
        return cls(str(EMBEDDED / "policy"), base or str(EMBEDDED / "base"), embedded=True)

    @property
    def names(self) -> tuple[str, str | None]:
        """What records call policy and base."""
        return EMBEDDED_NAMES if self.embedded else (self.policy, self.base)

    def config(self, method: Method, *, theta: Path | None = None, **given: Any) -> ReplayConfig:
        """The replay settings for a method.

        Args:
            method: The method.
            theta: File of limits; it makes the threshold absolute.
            **given: Fields of `ReplayConfig`; None means the default.

        Raises:
            ConfigError: the settings do not go together.
        """
        given = {name: value for name, value in given.items() if value is not None}
        if theta is not None:
            rule = given.setdefault("threshold", Threshold.ABSOLUTE)
            if rule is not Threshold.ABSOLUTE:
                raise ConfigError(
                    f"--theta holds limits for the absolute threshold, but --threshold is {rule}: "
                    "leave out one of them"
                )
            given["theta"] = load_theta(theta)
        return embedded_config(method, **given) if self.embedded else ReplayConfig(method, **given)

    def protocol(self, asked: Protocols) -> str:
        """The protocol to speak: as asked, or by the policy's name, or else the plain one."""
        return choose_protocol(asked.value, self.policy, self.embedded)


def choose_protocol(asked: str, policy: str, embedded: bool) -> str:
    """The protocol to speak: as asked, or by the policy's name, or else the plain one."""
    if asked != "auto":
        return asked
    return "embedded" if embedded else guess_protocol(policy)


@contextmanager
def mistakes_told() -> Iterator[None]:
    """Tell what a user can mend in a line, without a traceback, and exit with code 2."""
    try:
        yield
    except (ToolError, ReplayError, OSError, ValueError, ImportError) as error:
        Console(stderr=True, highlight=False).print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from error
