"""Access to a server: for programs of this machine, or for clients that have the key."""

import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def check_access(host: str, api_key: str | None) -> None:
    """Check that a server that other machines can reach has a key.

    Raises:
        ValueError: If the key is empty, or there is none and the address is not loopback.
    """
    if api_key is not None and not api_key.strip():
        raise ValueError("the API key is empty; leave it out on loopback, or give one")
    if api_key is None and host not in LOOPBACK:
        raise ValueError(
            f"{host} can be reached from other machines: give --api-key, or use {LOOPBACK[0]}"
        )


class KeyRequired:
    """ASGI middleware that lets only requests with `Authorization: Bearer <key>` pass.

    Args:
        app: The application behind it.
        api_key: The key; compared in constant time.
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
        self._key = api_key.encode()
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
        scheme, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
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
        local = scope["type"] == "lifespan" or self._is_local(dict(scope["headers"]))
        await (self._app if local else self._refuse)(scope, receive, send)

    def _is_local(self, headers: dict[bytes, bytes]) -> bool:
        urls = [b"//" + headers.get(b"host", b"")]
        if b"origin" in headers:
            urls.append(headers[b"origin"])
        try:
            return all(urlsplit(url.decode("ascii")).hostname in LOOPBACK for url in urls)
        except ValueError:
            return False
