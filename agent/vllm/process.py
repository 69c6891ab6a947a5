"""A vLLM server as a child process, in an environment of its own."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import visreplay_connector
from visreplay.agent.vllm.client import EngineClient, EngineDownError, EngineError

START_SECONDS = 900.0
"""Time that a server has to load its weights."""

_STOP_SECONDS = 15.0
_LOG_LINES = 15


class EngineProcess:
    """A vLLM server with the connector, which ends with this process.

    Args:
        python: The Python of an environment with vLLM.
        policy: Folder or hub id of the policy.
        folder: The folder of keys and values.
        options: More options of `vllm serve`.
        environment: More environment variables.
        start_seconds: Time that it has to start.

    Raises:
        EngineError: It did not start; the message holds the end of its log.
    """

    def __init__(
        self,
        python: str | Path,
        policy: str,
        folder: Path,
        *,
        options: Sequence[str] = (),
        environment: Mapping[str, str] = {},
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="visreplay-vllm-")
        home = Path(self._home.name)
        self.log = home / "log.txt"
        # The connector alone, and nothing else of this environment.
        (home / "python").mkdir()
        (home / "python" / "visreplay_connector").symlink_to(
            Path(visreplay_connector.__file__).parent
        )
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            *(str(python), "-m", "visreplay_connector.serve", "--with-parent"),
            *("--folder", str(folder), "--model", policy),
            *("--host", "127.0.0.1", "--port", str(port)),
            *options,
        ]
        kept = {name: x for name, x in os.environ.items() if not name.startswith("PYTHON")}
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                command,
                env={**kept, "PYTHONPATH": str(home / "python"), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._await(start_seconds)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process, which leads a group of its own."""
        return self._child.pid

    def close(self) -> None:
        """End the server."""
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGTERM)
            try:
                self._child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._child.pid, signal.SIGKILL)
                self._child.wait()
        self._home.cleanup()

    def __enter__(self) -> Self:
        """Return the process itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def _await(self, seconds: float) -> None:
        client = EngineClient(self.url)
        end = time.monotonic() + seconds
        try:
            while True:
                try:
                    client.check()
                    return
                except EngineDownError:
                    code = self._child.poll()
                if code is not None or time.monotonic() > end:
                    reason = f"ended with code {code}" if code is not None else "did not start"
                    lines = self.log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
                    tail = "\n".join(lines)
                    raise EngineError(f"vLLM {reason}; the end of its log:\n{tail}")
                time.sleep(0.5)
        finally:
            client.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
