"""An OpenAI-compatible endpoint: what is sent to it, and what may go wrong.

Its answers are untrusted, and its key stays here. Apart from the policy, so that a command line
needs no torch.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from visreplay.replay_core.errors import ConfigError, ReplayError

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

Shape = TypeVar("Shape", bound=BaseModel)

KEY_VARIABLE = "VISREPLAY_POLICY_KEY"
"""The environment variable that holds an endpoint's key."""

_AGAIN = "in an evaluation, --retry-errors plays the sample again"
_QUOTED = 300
"""Characters of an endpoint's own message that an error quotes."""


class EndpointError(ReplayError, RuntimeError):
    """An endpoint gave no usable answer; the message names its URL and the way out."""


class Reply(BaseModel):
    """The message of a choice.

    Attributes:
        content: Its text.
        refusal: A text in which the model declines, in the place of one.
        tool_calls: Calls that the endpoint took out of the text.
    """

    content: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None


class Choice(BaseModel):
    """One answer of a completion.

    Attributes:
        message: What the model wrote.
        finish_reason: Why it ended.
        stop_reason: The stop string that ended it, where vLLM answers; None is no stop string.
        matched_stop: The same, where SGLang answers. Numbers are the ids of tokens.
    """

    message: Reply
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    matched_stop: str | int | list[int] | None = None


class _Completion(BaseModel):
    choices: Annotated[list[Choice], Field(min_length=1)]


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


class Endpoint:
    """An OpenAI-compatible endpoint, by `openai`'s client.

    Requests that are refused for a while (429, 5xx) or do not arrive are sent again by the client,
    after pauses that grow. The key is read from the environment (`KEY_VARIABLE`), and stands in no
    record and no error. It may be used from several threads.

    Args:
        url: Its address up to, and without, `/chat/completions`.
        timeout: Seconds in which it must answer, or go on with its answer.
        retries: How often a request is sent again.

    Attributes:
        url: The address without a slash at its end.
        host: Its host, with the port if the address has one.

    Raises:
        ConfigError: The address or the key cannot be used.
        ImportError: The client is not installed.
    """

    def __init__(self, url: str, *, timeout: float = 600.0, retries: int = 4) -> None:
        if find_spec("openai") is None:
            raise ImportError("a policy at a URL needs openai: pip install 'visreplay[remote]'")
        self.url, self.host = _checked_url(url)
        self.timeout = timeout
        self.retries = retries
        self._key = _key()
        self._limit = "max_tokens"

    def named(self, model: str) -> str:
        """Name a model of this endpoint as records do."""
        return f"{model} at {self.host}"

    def models(self) -> list[str]:
        """List the names of its models.

        Raises:
            EndpointError: It does not say.
        """
        with self._explained("/models", "name the model by --policy"):
            response = self._client.models.with_raw_response.list().http_response
        return [each.id for each in self._parsed(_Models, response.content, "/models").data]

    def only_model(self) -> str:
        """Find the name of its model, if it has one alone.

        Raises:
            ConfigError: It has none or several; the message lists them.
            EndpointError: It does not say.
        """
        names = self.models()
        if len(names) == 1:
            return names[0]
        if not names:
            raise ConfigError(f"{self.url} lists no model: name one by --policy")
        listed = ", ".join(f"{name:.80}" for name in names[:20])
        more = f" and {len(names) - 20} more" if names[20:] else ""
        raise ConfigError(f"{self.url} has the models {listed}{more}: name one by --policy")

    def complete(self, *, max_tokens: int, **fields: Any) -> Choice:
        """Ask for one answer.

        Args:
            max_tokens: Limit of its tokens.
            **fields: The other fields of the request.

        Raises:
            EndpointError: There is no usable answer.
        """
        import openai

        path = "/chat/completions"
        create: Any = self._client.chat.completions.with_raw_response.create
        with self._explained(path, "change or leave out the setting that it names"):
            try:
                raw = create(**fields, **{self._limit: max_tokens})
            except openai.BadRequestError as error:
                # OpenAI's newer models know the limit by its new name, many servers by the old one.
                if self._limit != "max_tokens" or "max_completion_tokens" not in error.message:
                    raise
                self._limit = "max_completion_tokens"
                raw = create(**fields, **{self._limit: max_tokens})
        completion = self._parsed(_Completion, raw.http_response.content, path)
        return completion.choices[0]

    def close(self) -> None:
        """Close its connections; the next request opens new ones."""
        if "_client" in self.__dict__:
            self._client.close()
            del self._client

    def error(self, problem: str, way_out: str, path: str = "/chat/completions") -> EndpointError:
        """Make an error about an answer.

        Args:
            problem: What is wrong.
            way_out: What to do.
            path: Where it was asked.
        """
        return EndpointError(f"{self.url}{path} {problem}: {way_out}")

    def quoted(self, words: object) -> str:
        """Quote what the endpoint says, in a short line and without the key."""
        line = " ".join(str(words).split())
        if self._key:
            line = line.replace(self._key, "***")
        return line if len(line) <= _QUOTED else f"{line[:_QUOTED]}..."

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import OpenAI

        # Another service's key, which the client would take from the environment, is not sent.
        return OpenAI(
            base_url=self.url,
            api_key=self._key or "none",
            timeout=self.timeout,
            max_retries=self.retries,
        )

    @contextmanager
    def _explained(self, path: str, way_out: str) -> Iterator[None]:
        """Turn the errors of the client into ours. They may quote the key: none is chained."""
        import openai

        try:
            yield
        except openai.APITimeoutError:
            raise self.error(
                f"gave no answer within {self.timeout:g} s ({self._tries})",
                f"is the server overloaded? {_AGAIN}",
                path,
            ) from None
        except openai.APIStatusError as error:
            problem = f"answered with status {error.status_code} ({self.quoted(_said(error))})"
            raise self.error(problem, self._way_out(error.status_code, way_out), path) from None
        except openai.APIConnectionError as error:
            cause = self.quoted(error.__cause__ or error)
            raise self.error(
                f"cannot be reached ({cause}; {self._tries})",
                f"is the server running, and is the URL right? {_AGAIN}",
                path,
            ) from None
        except openai.OpenAIError as error:
            problem = f"gave an answer that cannot be read ({type(error).__name__})"
            raise self.error(problem, "is it an OpenAI-compatible endpoint?", path) from None

    def _way_out(self, status: int, refused: str) -> str:
        """Say what to do about a status."""
        if status in (401, 403):
            if self._key:
                return f"put a key that it accepts for this model in {KEY_VARIABLE}"
            return f"put its key in the environment variable {KEY_VARIABLE}"
        if status == 404:
            return (
                "is the URL the one before /chat/completions (http://127.0.0.1:8000/v1, say), and "
                "--policy the name of one of its models?"
            )
        if status == 413:
            return "show fewer or smaller pictures (--max-images, --max-pixels)"
        if status == 429:
            return f"{self._tries}; wait, or raise the limit of the key; {_AGAIN}"
        if status >= 500:
            return f"the endpoint itself failed, see its log; {_AGAIN}"
        return refused

    @property
    def _tries(self) -> str:
        return f"{self.retries + 1} tries" if self.retries else "1 try"

    def _parsed(self, shape: type[Shape], content: bytes, path: str) -> Shape:
        """Check an answer.

        Raises:
            EndpointError: It has another shape.
        """
        try:
            return shape.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the whole"
            raise self.error(
                f"answered with status 200, but not in OpenAI's form ({place}: {first['msg']})",
                "is it an OpenAI-compatible endpoint, and the URL the one before "
                "/chat/completions?",
                path,
            ) from None


def _checked_url(url: str) -> tuple[str, str]:
    """Check an address; returns it without a slash at its end, and its host.

    Raises:
        ConfigError: It is none, or holds what would be sent or recorded in an unexpected way.
    """
    url = url.strip().rstrip("/")
    shown = re.split(r"[?#]", url)[0]  # what follows may be a key
    example = "write one such as http://127.0.0.1:8000/v1"
    if "@" in shown:
        raise ConfigError(
            "the policy's URL holds a name or password, which would be seen in the list of "
            f"processes: leave them out, and put the key in {KEY_VARIABLE}"
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"the policy's URL is {shown[:200]!r}, but must be of http(s): {example}")
    if shown != url:
        raise ConfigError(
            f"the policy's URL has a query or a fragment after {shown[:200]!r}, and paths are "
            f"added at its end: {example}, and put a key in {KEY_VARIABLE}"
        )
    return url, parts.netloc


def _key() -> str | None:
    """Read the key, without the blanks and line breaks around it.

    Raises:
        ConfigError: It is empty, or no header can hold it.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key is None:
        return None
    key = key.strip()
    if not key:
        raise ConfigError(f"{KEY_VARIABLE} is empty: unset it, or put a key in it")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"{KEY_VARIABLE} holds a character that no header can hold: copy the key again"
        )
    return key


def _said(error: "APIStatusError") -> object:
    """Find what an endpoint says about an error."""
    body: object = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or dict(body)
    return body or error.response.reason_phrase
