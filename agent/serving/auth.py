"""Who may use a server: programs on this machine, or whoever has the key."""

import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def check_access(host: str, api_key: str | None) -> None:
    """Refuse to open a server to other machines without a key.

    Raises:
        ValueError: If the key is empty, or is missing where the address is not loopback.
    """
    if api_key is not None and not api_key.strip():
        raise ValueError("the API key is empty; leave it out on loopback, or give one")
    if api_key is None and host not in LOOPBACK:
        raise ValueError(
            f"{host} can be reached from other machines: give --api-key, or use {LOOPBACK[0]}"
        )


class KeyRequired:
    """An ASGI application that only those reach who send `Authorization: Bearer <key>`.

    Args:
        app: What they reach.
        api_key: The key; compared in constant time.
        refused: Answers the others; by default with 401 and a line of text.
        open_to_all: Paths that take no key.
    """

    REASON = "the header Authorization: Bearer <key> is missing or wrong"

    def __init__(
        self,
        app: App,
        api_key: str,
        refused: App | None = None,
        open_to_all: Collection[str] = (),
    ) -> None:
        self._app = app
        self._key = api_key.encode()
        self._refused = refused or self._refuse
        self._open = open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or pass the request on."""
        known = scope["type"] == "lifespan" or scope["path"] in self._open or self._sent_key(scope)
        await (self._app if known else self._refused)(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": f"{self.REASON}\n".encode()})

    def _sent_key(self, scope: Scope) -> bool:
        scheme, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key)


class SameMachine:
    """An ASGI application that only programs of this machine reach, and no web page.

    A page's own name may lead to this machine (DNS rebinding), and then a browser asks for it; so a
    request must name this machine as host, and as origin if it has one.

    Args:
        app: What they reach.
        refused: Answers the others.
    """

    REASON = "without a key, the headers Host and Origin must name this machine: localhost, say"

    def __init__(self, app: App, refused: App) -> None:
        self._app = app
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass the request on."""
        local = scope["type"] == "lifespan" or self._is_local(dict(scope["headers"]))
        await (self._app if local else self._refused)(scope, receive, send)

    def _is_local(self, headers: dict[bytes, bytes]) -> bool:
        named = [b"//" + headers.get(b"host", b"")]
        if b"origin" in headers:
            named.append(headers[b"origin"])
        try:
            return all(urlsplit(name.decode("ascii")).hostname in LOOPBACK for name in named)
        except ValueError:
            return False
