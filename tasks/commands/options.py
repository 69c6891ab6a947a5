"""Options that several commands have, in groups."""

import os
import socket
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from visreplay.agent.episode.limits import Limits
from visreplay.agent.policy.endpoint import KEY_VARIABLE as POLICY_KEY_VARIABLE
from visreplay.agent.policy.sampling import Sampling
from visreplay.agent.protocols import PROTOCOLS, Recipe
from visreplay.agent.serving.auth import LOOPBACK, check_access
from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.errors import ConfigError
from visreplay.tasks.commands.settings import PANELS, Overrides

MODEL = "Model"
TASK = "Task"
OUTPUT = "Output"
SERVER = "Server"
KEY_VARIABLE = "VISREPLAY_API_KEY"

MarkdownOption = Annotated[
    bool, typer.Option("--markdown", help="Print Markdown.", rich_help_panel=OUTPUT)
]

DataOption = Annotated[
    Path | None,
    typer.Option(
        help="File of the task's data; `visreplay tasks` says which.", rich_help_panel=TASK
    ),
]

SamplesOption = Annotated[
    int, typer.Option(min=1, help="Number of samples, from the first.", rich_help_panel=TASK)
]

LargestOption = Annotated[
    float | None,
    typer.Option(
        "--max-megapixels",
        min=0.001,
        max=10_000,
        help="Largest picture that is decoded, in millions of pixels. Default: 89.5.",
        rich_help_panel=TASK,
    ),
]


def largest(megapixels: float | None) -> int | None:
    """Convert the option to pixels."""
    return None if megapixels is None else round(megapixels * 1_000_000)


ProtocolName = StrEnum("ProtocolName", {name: name for name in ("auto", *PROTOCOLS)})  # type: ignore[misc]


def _model(help_text: str, **settings: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel=MODEL, **settings)


@dataclass(frozen=True)
class PairOptions:
    """Which pair a command works on, and how it is loaded."""

    policy: Annotated[
        str | None, _model("Policy: a folder or a hub id. Default: the embedded pair.")
    ] = None
    base: Annotated[
        str | None, _model("Base, from which the policy was trained: a folder or a hub id.")
    ] = None
    protocol: Annotated[
        ProtocolName,
        _model("Protocol in which the policy calls tools; auto chooses it by the policy's name."),
    ] = ProtocolName["auto"]
    recipe: Annotated[
        str | None,
        _model(
            "Texts, pixel budgets and limits of the policy's training: a TOML file, or the name of "
            "a recipe that ships. Default: by the policy's name."
        ),
    ] = None
    min_pixels: Annotated[
        int | None,
        _model("Images with fewer pixels are enlarged. Default: by recipe and processor.", min=1),
    ] = None
    max_pixels: Annotated[
        int | None,
        _model("Images with more pixels are shrunk. Default: by recipe and processor.", min=1),
    ] = None
    device: Annotated[str, _model("Device: auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    base_device: Annotated[
        str | None, _model("Device of the base. Default: the policy's device.")
    ] = None
    dtype: Annotated[str, _model("Type of the weights: auto, float32, bfloat16 or float16.")] = (
        "auto"
    )
    processor: Annotated[
        str | None,
        _model("Processor for both models: a folder or a hub id. Default: the policy's."),
    ] = None
    attention: Annotated[
        str | None,
        _model(
            "Attention of transformers: sdpa, eager, flash_attention_2 or another that it knows. "
            "Default: sdpa, which needs no mask."
        ),
    ] = None
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Replay as the paper does with this policy; other options change single settings.",
            rich_help_panel=PANELS[ReplayConfig],
        ),
    ] = False

    @property
    def load_options(self) -> dict[str, Any]:
        """More options of `load_pair`, for transformers."""
        return {} if self.attention is None else {"attn_implementation": self.attention}


@dataclass(frozen=True)
class EndpointOptions:
    """Where the policy is, if another program runs it."""

    policy_url: Annotated[
        str | None,
        _model(
            "OpenAI-compatible endpoint that is the policy, without replay: for example "
            f"http://127.0.0.1:8000/v1. Its key is read from {POLICY_KEY_VARIABLE}. --policy is "
            "then the name of a model there. Default: its only one."
        ),
    ] = None


@dataclass(frozen=True)
class EpisodeOptions:
    """How the agent plays an episode."""

    sampling: Overrides[Sampling]
    limits: Overrides[Limits]
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=2**63 - 1, help="Seed of the sampler.", rich_help_panel=PANELS[Sampling]
        ),
    ] = 0
    system_prompt: Annotated[
        Path | None,
        _model(
            "File with the system prompt that the policy was trained with.",
            exists=True,
            dir_okay=False,
        ),
    ] = None
    user_suffix: Annotated[
        Path | None,
        _model(
            "File with the text that the policy expects after a question.",
            exists=True,
            dir_okay=False,
        ),
    ] = None

    def worded(self, recipe: Recipe) -> Recipe:
        """Put the checkpoint's own texts into a recipe."""
        return recipe.changed(system=_prompt(self.system_prompt), suffix=_prompt(self.user_suffix))


def _prompt(path: Path | None) -> str | None:
    """Read a prompt: a text editor ends its file with a newline, which is not part of it.

    Raises:
        ConfigError: The file is no text.
    """
    if path is None:
        return None
    try:
        return path.read_text("utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompt {str(path)!r} cannot be read as UTF-8: {error}") from error


@dataclass(frozen=True)
class ListenOptions:
    """The address of a server, and the key of its clients."""

    host: Annotated[str, typer.Option(help="Address to listen at.", rich_help_panel=SERVER)] = (
        LOOPBACK[0]
    )
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel=SERVER),
    ] = 8000
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar=KEY_VARIABLE,
            help="Key that clients must send as a Bearer token, as OpenAI's clients do; needed "
            "beyond loopback. Blanks and line breaks around it do not count.",
            rich_help_panel=SERVER,
        ),
    ] = None

    def check(self) -> None:
        """Refuse to listen to other machines without a key.

        Raises:
            ValueError: As `check_access`, or the variable for the key is there, but empty.
        """
        if self.api_key is None and KEY_VARIABLE in os.environ:
            raise ValueError(f"{KEY_VARIABLE} is empty: unset it, or put a key in it")
        check_access(self.host, self.api_key)

    def bind(self) -> socket.socket:
        """Take the port. Nobody can connect before the server listens.

        Raises:
            OSError: The port is taken, or the address is none of this machine's.
        """
        try:
            family, _, _, _, address = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            bound = socket.socket(family)
            try:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bound.bind(address)
            except OSError:
                bound.close()
                raise
        except OSError as error:
            raise self._cannot_listen(error) from error
        return bound

    def listen(self, bound: socket.socket, backlog: int) -> None:
        """Let clients connect; they wait until they are answered.

        Raises:
            OSError: Another server has taken the port meanwhile.
        """
        try:
            bound.listen(backlog)
        except OSError as error:
            raise self._cannot_listen(error) from error

    def url(self, bound: socket.socket, path: str) -> str:
        """Give the address of a path of the server."""
        port = bound.getsockname()[1]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}{path}"

    def _cannot_listen(self, error: OSError) -> OSError:
        return OSError(
            f"cannot listen at {self.host}, port {self.port}: {error.strerror}; choose another "
            "--port (0 takes a free one) or --host"
        )
