"""Which vLLM writes the turns, and how it is reached. Imports no torch."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from visreplay.replay_core.errors import ConfigError

if TYPE_CHECKING:
    from visreplay.agent.vllm.writer import VllmWriter

logger = logging.getLogger(__name__)

GIB = 2**30


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """The vLLM servers that write turns: running ones, or one that is started for this process.

    Attributes:
        urls: Addresses of running servers, of `python -m visreplay_connector.serve`.
        python: The Python of an environment with vLLM, which a server is started with.
        folder: Folder of keys and values, the servers' `--folder`; None takes one in shared memory.
        gib: Largest size of the keys and values in it, in GiB.
        listen: Address (host:port) at which servers on other machines fetch them, and which these
            name as `--source`; None where all share the folder.
        options: More options of a server that is started, as of `vllm serve`.
    """

    urls: tuple[str, ...] = ()
    python: Path | None = None
    folder: Path | None = None
    gib: int = 8
    listen: str | None = None
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            ConfigError: Neither or both of `urls` and `python`, or a value out of range.
        """
        if bool(self.urls) == (self.python is not None):
            raise ConfigError(
                "vLLM is either running (an engine's URL) or to be started (the Python of an "
                "environment that has it): give one of them"
            )
        if self.gib < 1:
            raise ConfigError(
                f"keys and values may take {self.gib} GiB, but need 1 at least: allow more"
            )
        if self.options and self.urls:
            raise ConfigError("options of vLLM are for a server that is started, not for a URL")

    @contextmanager
    def opened(self, policy: str) -> "Iterator[VllmWriter]":
        """Reach the servers, or start one, for the time of a block.

        Args:
            policy: Folder, hub id or embedded name of the model that answers.

        Raises:
            CheckpointError: There is no such model.
            ConfigError: It is an adapter, whose merged weights vLLM would need.
            EngineError: No server can be reached, or the one to be started does not start.
        """
        from visreplay.agent.vllm.client import EngineClient, EngineDownError
        from visreplay.agent.vllm.exports import Exports
        from visreplay.agent.vllm.file_server import FileServer
        from visreplay.agent.vllm.process import EngineProcess
        from visreplay.agent.vllm.writer import VllmWriter
        from visreplay.replay_core import lora
        from visreplay.replay_core.checkpoint import Checkpoint
        from visreplay_connector.handles import checkpoint_digest

        checkpoint = Checkpoint.find(policy)
        if lora.is_adapter(checkpoint):
            raise ConfigError(
                f"{policy} is an adapter, but the engine loads whole models: merge it first"
            )
        config = checkpoint.file("config.json")
        if config is None:
            raise ConfigError(f"{policy} has no config.json: name a checkpoint of a model")
        with ExitStack() as stack:
            exports = Exports(checkpoint_digest(config.parent), self.folder, self.gib * GIB)
            stack.callback(exports.close)
            if self.listen is not None:
                host, _, port = self.listen.rpartition(":")
                files = stack.enter_context(FileServer(exports.folder, host, int(port)))
                exports.source = files.url
            urls = self.urls
            if self.python is not None:
                process = EngineProcess(
                    self.python, str(config.parent), exports.folder, options=self.options
                )
                urls = (stack.enter_context(process).url,)
            clients = [EngineClient(url) for url in urls]
            writer = VllmWriter(clients, exports)
            stack.callback(writer.close)
            down = []
            for client in clients:
                try:
                    client.check()
                except EngineDownError as error:
                    down.append(error)
            if len(down) == len(clients):
                raise down[0]
            for each in down:
                logger.warning("%s; the others write its turns", each)
            yield writer
