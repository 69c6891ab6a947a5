"""Access to a server: for programs of this machine, or for clients that have the key."""

import hmac
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOST = re.compile(rb"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_ORIGIN = re.compile(rb"[a-z][a-z0-9+.-]*://" + _HOST.pattern, re.IGNORECASE)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def check_access(host: str, api_key: str | None) -> None:
    """Check that a server that other machines can reach has a key.

    Raises:
        ValueError: If the key cannot be sent, or there is none and the address is not loopback.
    """
    if api_key is not None:
        usable_key(api_key)
    elif host not in LOOPBACK:
        raise ValueError(
            f"{host} can be reached from other machines: give --api-key, or use {LOOPBACK[0]}"
        )


def usable_key(api_key: str) -> str:
    """Take a key as clients send it: without the blanks and line breaks around it.

    A key that comes from a file, a mounted secret say, often ends with a line break.

    Raises:
        ValueError: If nothing is left, or no header can hold it.
    """
    key = api_key.strip()
    if not key:
        raise ValueError("the API key is empty; leave it out on loopback, or give one")
    if not key.isprintable():
        raise ValueError("the API key has a line break or another control character inside it")
    return key


class KeyRequired:
    """ASGI middleware that lets only requests with `Authorization: Bearer <key>` pass.

    Args:
        app: The application behind it.
        api_key: The key; compared in constant time, without blanks and line breaks around it.
        refuse: Answers requests without it; by default with 401 and a line of text.
        open_paths: Paths that need no key.
    """

    REASON = "the header Authorization: Bearer <key> is missing or wrong"

    def __init__(
        self,
        app: App,
        api_key: str,
        refuse: App | None = None,
        open_paths: Collection[str] = (),
    ) -> None:
        self._app = app
        self._key = usable_key(api_key).encode()
        self._refuse = refuse or self._answer_401
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        allowed = (
            scope["type"] == "lifespan" or scope["path"] in self._open_paths or self._has_key(scope)
        )
        await (self._app if allowed else self._refuse)(scope, receive, send)

    async def _answer_401(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": f"{self.REASON}\n".encode()})

    def _has_key(self, scope: Scope) -> bool:
        values = _values(scope, b"authorization")
        if len(values) != 1:
            return False
        scheme, _, key = values[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key)


class SameMachine:
    """ASGI middleware that lets programs of this machine pass, and no web page.

    The domain of a web page may lead to this machine (DNS rebinding), and a browser then sends its
    requests here. So a request must name this machine as its host, and as its origin if it has one.
    Starlette's `TrustedHostMiddleware` looks at the host alone, and answers in text of its own.

    Args:
        app: The application behind it.
        refuse: Answers all other requests.
    """

    REASON = "without a key, the headers Host and Origin must name this machine: localhost, say"

    def __init__(self, app: App, refuse: App) -> None:
        self._app = app
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        local = scope["type"] == "lifespan" or _is_local(scope)
        await (self._app if local else self._refuse)(scope, receive, send)


def _is_local(scope: Scope) -> bool:
    """Tell whether each Host and Origin names this machine, and there is a Host."""
    hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
    return (
        bool(hosts)
        and all(_HOST.fullmatch(host) for host in hosts)
        and all(_ORIGIN.fullmatch(origin) for origin in origins)
    )


def _values(scope: Scope, name: bytes) -> list[bytes]:
    """Get all values of a header: a client may send it twice."""
    return [value for key, value in scope["headers"] if key == name]
