"""What the commands have in common: their options, the pair, and how a mistake is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

import typer
from rich.console import Console
from rich.markup import escape
from transformers.utils import logging

from visreplay.agent import PROTOCOLS, protocol_spoken_by
from visreplay.replay_core import (
    EMBEDDED,
    EMBEDDED_NAMES,
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
from visreplay.tools import ToolError

VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".gif"}

Protocols = StrEnum("Protocols", {name: name for name in ("auto", *PROTOCOLS)})  # type: ignore[misc]


class Optimizer(StrEnum):
    """Of token replay."""

    SGD = "sgd"
    ADAM = "adam"


PolicyOption = Annotated[
    str | None, typer.Option(help="Policy: local path or hub id. Default: the embedded pair.")
]
BaseOption = Annotated[str | None, typer.Option(help="The model that the policy was trained from.")]
ProtocolOption = Annotated[
    Protocols, typer.Option(help="Dialect of the policy; auto goes by its name; hermes suits any.")
]
ReplayLayersOption = Annotated[int | None, typer.Option(help="L of token replay.")]
StateLayersOption = Annotated[int | None, typer.Option(help="Layers of state replay.")]
ThresholdOption = Annotated[Threshold | None, typer.Option(help="Rule of the low-entropy set.")]
TauOption = Annotated[float | None, typer.Option(help="Of the rule.")]
ThetaOption = Annotated[
    Path | None,
    typer.Option(help="File of `visreplay calibrate`: limits for the absolute threshold."),
]
StepsOption = Annotated[int | None, typer.Option(help="Optimisation steps of token replay.")]
LearningRateOption = Annotated[float | None, typer.Option(help="Of token replay.")]
OptimizerOption = Annotated[Optimizer | None, typer.Option(help="Of token replay.")]
SideOption = Annotated[Side | None, typer.Option(help="Which side of the limit to replay.")]
TeacherOption = Annotated[Teacher | None, typer.Option(help="Whose activations to replay.")]
SwapRolesOption = Annotated[
    bool, typer.Option("--swap-roles", help="The base answers, replayed from the policy.")
]
EntryLayerOption = Annotated[
    int | None, typer.Option(help="Layer that token replay's offset enters; 0: the embeddings.")
]
BaseDeviceOption = Annotated[
    str | None, typer.Option(help="Of the base, where it is to be elsewhere than the policy.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
ProcessorOption = Annotated[
    str | None,
    typer.Option(help="Processor for both, where theirs differ: local path or hub id."),
]


@dataclass(frozen=True)
class Checkpoints:
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

    def config(self, method: Method, theta: Path | None, **given: Any) -> ReplayConfig:
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
    return "embedded" if embedded else protocol_spoken_by(policy)


@contextmanager
def mistakes_told() -> Iterator[None]:
    """Tell what a user can mend in a line, without a traceback, and exit with code 2."""
    try:
        yield
    except (ToolError, ReplayError, OSError, ValueError, ImportError) as error:
        Console(stderr=True, highlight=False).print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from error
