"""Options of the commands that let an agent play: which engine writes its turns."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visreplay.agent.vllm.settings import VllmSettings
from visreplay.replay_core.config import ReplayConfig
from visreplay.replay_core.errors import ConfigError

if TYPE_CHECKING:
    from visreplay.agent.policy.writing import Writer
    from visreplay.tasks.commands.pair_choice import PairChoice
    from visreplay.tasks.commands.remote_choice import RemoteChoice

PANEL = "Engine"


class EngineName(StrEnum):
    """The engines."""

    EMBEDDED = "embedded"
    VLLM = "vllm"


def _engine(help_text: str, **settings: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel=PANEL, **settings)


@dataclass(frozen=True)
class EngineOptions:
    """What writes the turns."""

    engine: Annotated[
        EngineName,
        _engine("Engine that writes turns: this process, or vLLM with the connector."),
    ] = EngineName.EMBEDDED
    engine_url: Annotated[
        str | None,
        _engine("Addresses of running vLLM servers, with commas between them."),
    ] = None
    engine_python: Annotated[
        Path | None,
        _engine(
            "Python of an environment with vLLM, to start a server for this command.",
            exists=True,
            dir_okay=False,
        ),
    ] = None
    engine_folder: Annotated[
        Path | None,
        _engine("Folder of keys and values, as the servers have it. Default: in shared memory."),
    ] = None
    engine_gib: Annotated[
        int, _engine("Largest size of the keys and values in the folder, in GiB.", min=1, max=2**20)
    ] = 8
    engine_listen: Annotated[
        str | None,
        _engine(
            "Address (HOST:PORT) at which servers on other machines fetch keys and values; they "
            "must name it as --source."
        ),
    ] = None
    engine_options: Annotated[
        str | None,
        _engine("More options of a server that is started, as of `vllm serve`, in one string."),
    ] = None

    @property
    def settings(self) -> VllmSettings | None:
        """The settings of vLLM; None for the embedded engine.

        Raises:
            ConfigError: Options of vLLM beside the embedded engine, or some that do not go
                together.
        """
        urls = tuple(url for url in (self.engine_url or "").split(",") if url)
        if self.engine is EngineName.EMBEDDED:
            if urls or self.engine_python or self.engine_options or self.engine_listen:
                raise ConfigError("options of vLLM are given, but --engine is embedded: add vllm")
            return None
        return VllmSettings(
            urls,
            self.engine_python,
            self.engine_folder,
            self.engine_gib,
            self.engine_listen,
            tuple(shlex.split(self.engine_options or "")),
        )

    @property
    def record(self) -> dict[str, str]:
        """The engine in the settings of a run, whose seeds draw other tokens in another one."""
        return {} if self.engine is EngineName.EMBEDDED else {"engine": str(self.engine)}

    @contextmanager
    def writer(
        self, choice: "PairChoice | RemoteChoice", config: ReplayConfig
    ) -> "Iterator[Writer | None]":
        """Reach the engine for the time of a block; None for the embedded one.

        Args:
            choice: The policy.
            config: How it is replayed.

        Raises:
            ConfigError: The options do not go together, or the policy is behind a URL.
            EngineError: The engine cannot be reached, or does not start.
        """
        settings = self.settings
        if settings is None:
            yield None
            return
        with settings.opened(choice.writing(config)) as writer:
            yield writer
