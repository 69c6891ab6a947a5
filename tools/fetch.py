"""Fetch what an untrusted caller names by URL: from public addresses alone, and within limits."""

import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from ssl import SSLContext
from threading import Thread
from typing import Any

from visreplay.tools.types import ToolError, shown

try:
    import httpcore
    from httpx import URL, InvalidURL
except ImportError as error:
    raise ImportError(f"fetching needs httpx ({error}): pip install 'visreplay[serve]'") from error

Address = IPv4Address | IPv6Address

_UNICAST = ip_network("2000::/3")
_OTHERS = tuple(
    map(ip_network, ("2002::/16", "192.88.99.0/24", "192.0.0.0/24", "168.63.129.16/32"))
)
"""What `ipaddress` does not know, or not in each version: 6to4, which leads to any IPv4 address,
and its relays; IETF's protocols and Oracle's metadata; what Azure tells its machines."""
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = ((b"User-Agent", b"visreplay"), (b"Accept", b"*/*"), (b"Accept-Encoding", b"identity"))


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet's.

    Of IPv6, global unicast alone: what embeds an IPv4 address (mapped, 6to4, NAT64) may lead
    anywhere, and so is none.
    """
    if address.version == 6 and address not in _UNICAST:
        return False
    other = any(address in network for network in _OTHERS)
    return address.is_global and not address.is_multicast and not other


@dataclass(frozen=True)
class Fetcher:
    """Reads http and https URLs.

    No proxy, cookie or password is used, whatever the environment says, and no error has anything
    of what a server said but the status, and the host to which it redirected.

    Attributes:
        max_bytes: Of what a URL has; counted as it arrives.
        timeout: In seconds, for all of it: names, redirects, and servers that send drop by drop.
        max_redirects: So many are followed.
        allowed: Which addresses may be asked. A host is asked only if all of its addresses may be,
            and at the addresses that were checked, wherever its name points a moment later.
    """

    max_bytes: int = 20 * 2**20
    timeout: float = 20.0
    max_redirects: int = 5
    allowed: Callable[[Address], bool] = is_public

    def get(self, url: str) -> bytes:
        """What is at a URL.

        Raises:
            ToolError: If it may not be read, is too large, or does not come in time.
        """
        backend = _Backend(self.allowed, time.monotonic() + self.timeout)
        try:
            with httpcore.ConnectionPool(network_backend=backend) as pool:
                return self._follow(pool, url)
        except httpcore.TimeoutException as error:
            raise ToolError(
                f"{shown(url)} took longer than the {self.timeout:g} s that are allowed"
            ) from error
        except httpcore.ConnectError as error:
            raise ToolError(f"{shown(url)} cannot be reached: {error}") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            # Without its text, which quotes what the server sent.
            raise ToolError(f"{shown(url)} broke off, or is no web server's") from error

    def _follow(self, pool: httpcore.ConnectionPool, url: str) -> bytes:
        target = _checked(url)
        for _ in range(self.max_redirects + 1):
            where = httpcore.URL(
                scheme=target.raw_scheme,
                host=target.raw_host,
                port=target.port,
                target=target.raw_path,
            )
            headers = [(b"Host", target.netloc), *_HEADERS]
            # A redirect's own body is not read.
            with pool.stream("GET", where, headers=headers) as response:
                location = _header(response, b"location")
                if response.status not in _REDIRECTS or not location:
                    return self._body(response, url)
            target = _checked(location, target)
        raise ToolError(f"{shown(url)} is redirected more than {self.max_redirects} times")

    def _body(self, response: httpcore.Response, url: str) -> bytes:
        if response.status != 200:
            raise ToolError(f"{shown(url)} cannot be read: the server answered {response.status}")
        if _header(response, b"content-encoding") not in ("", "identity"):
            raise ToolError(f"{shown(url)} came compressed, which was not asked for")
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self.max_bytes:
                raise ToolError(f"{shown(url)} has more than the {self.max_bytes} bytes allowed")
        return bytes(body)


class _Backend(httpcore.NetworkBackend):
    """Connects to addresses that were checked, before a moment that nothing outlasts."""

    def __init__(self, allowed: Callable[[Address], bool], deadline: float) -> None:
        self._allowed = allowed
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def left(self) -> float:
        """Seconds until then."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time is up")
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = [ip_address(address) for address in self._look_up(host, port)]
        # One answer for both: who asks is not told which names there are in the network here.
        if not addresses or not all(map(self._allowed, addresses)):
            raise ToolError(
                f"the host {shown(host)} is not asked: it is not known, or not all of its "
                "addresses are public"
            )
        failed = httpcore.ConnectError()
        for address in addresses:
            try:
                return _Stream(self._sockets.connect_tcp(str(address), port, self.left()), self)
            except httpcore.ConnectError as error:
                failed = error
        raise failed

    def _look_up(self, host: str, port: int) -> list[str]:
        """The addresses of a host; in a thread, since the system's resolver takes its time."""
        found: Future[list[str]] = Future()

        def work() -> None:
            try:
                known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                found.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in known)))
            except (OSError, UnicodeError):
                found.set_result([])

        Thread(target=work, daemon=True).start()
        try:
            return found.result(self.left())
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("the time is up") from error


class _Stream(httpcore.NetworkStream):
    """A connection on which each wait ends when the time is up."""

    def __init__(self, stream: httpcore.NetworkStream, backend: _Backend) -> None:
        self._stream = stream
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._backend.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._backend.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        secure = self._stream.start_tls(ssl_context, server_hostname, self._backend.left())
        return _Stream(secure, self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _checked(url: str, base: URL | None = None) -> URL:
    """A URL, seen from the one that redirects to it, if it is such as are read."""
    try:
        target = URL(url) if base is None else base.join(url)
    except (InvalidURL, ValueError) as error:
        raise ToolError(f"{_named(url, base)} is no URL that can be read") from error
    if target.scheme not in ("http", "https") or not target.host:
        raise ToolError(f"{_named(url, base)} is not fetched: http and https URLs of a host are")
    if target.userinfo:
        raise ToolError("a URL with a user's name or password is not fetched: leave them out")
    if target.port is not None and not 0 < target.port < 2**16:
        raise ToolError(f"there is no port {target.port}; ports are 1 to 65535")
    return target


def _named(url: str, base: URL | None) -> str:
    return shown(url) if base is None else "what the URL is redirected to"


def _header(response: httpcore.Response, name: bytes) -> str:
    """A header's value, or nothing."""
    values = [value for key, value in response.headers if key.lower() == name]
    return values[0].decode("utf-8", "replace").strip() if values else ""
