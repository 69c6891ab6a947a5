"""Requests to a running vLLM server."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from visreplay.agent.policy.writing import WriterError

KEY_VARIABLE = "VISREPLAY_ENGINE_KEY"
"""The environment variable with the server's key, if it asks for one."""

_CONNECT_SECONDS = 10.0


class EngineError(WriterError):
    """vLLM did not write a turn."""


class EngineDownError(EngineError):
    """The server cannot be reached, or broke off: another may write the turn."""


class LoadFailedError(EngineError):
    """The server could not load what was read and replayed: it may be exported again."""


class EngineClient:
    """A vLLM server with the connector. It may be used from several threads.

    Args:
        url: Its address, for example `http://127.0.0.1:8000`.
        timeout: Seconds that it may take to the next token.
        connections: Number of requests at once.
    """

    def __init__(self, url: str, *, timeout: float = 600.0, connections: int = 256) -> None:
        self.url = url.rstrip("/")
        key = os.environ.get(KEY_VARIABLE)
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=connections),
            trust_env=False,
        )

    def check(self) -> None:
        """Ask whether the server is up.

        Raises:
            EngineDownError: It is not.
        """
        try:
            self._http.get("/health").raise_for_status()
        except httpx.HTTPError as error:
            raise self._down(error) from error

    def stream(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Send a request for a turn, and yield what comes: pieces with tokens, then the usage.

        Closing the iterator ends the request.

        Raises:
            EngineDownError: The server cannot be reached, or broke off.
            LoadFailedError: It could not load the keys and values.
            EngineError: It refused the request.
        """
        done = False
        try:
            with self._http.stream("POST", "/inference/v1/generate", json=body) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    raise self._refusal(answer.status_code, answer.text)
                for line in answer.iter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        done = True
                        break
                    piece = json.loads(data)
                    if "error" in piece:
                        error = piece["error"]
                        code = error.get("code", 500) if isinstance(error, dict) else 500
                        raise self._refusal(int(code), json.dumps(error))
                    yield piece
        except httpx.HTTPError as error:
            raise self._down(error) from error
        except json.JSONDecodeError as error:
            raise EngineError(f"the engine at {self.url} answered with no JSON: {error}") from error
        if not done:
            raise self._down(ConnectionError("it broke off"))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _refusal(self, code: int, text: str) -> EngineError:
        if code == httpx.codes.FORBIDDEN:
            return EngineError(
                f"the engine at {self.url} does not take tokens: start it with --enable-scale-out"
            )
        if code == httpx.codes.UNAUTHORIZED:
            return EngineError(f"the engine at {self.url} asks for a key: put it in {KEY_VARIABLE}")
        if code >= httpx.codes.INTERNAL_SERVER_ERROR:
            return LoadFailedError(
                f"the engine at {self.url} could not load the keys and values, or failed "
                f"({code}): {text[:500]}; its log has the reason"
            )
        return EngineError(f"the engine at {self.url} refused the request ({code}): {text[:1000]}")

    def _down(self, error: Exception) -> EngineDownError:
        reason = str(error) or type(error).__name__
        return EngineDownError(f"the engine at {self.url} cannot be reached: {reason}")
